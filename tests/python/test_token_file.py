"""Reading token files: what is torn, stale or of another kind is found when the file is opened."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmkit
from lmkit.errors import LmkitError, MalformedError, MissingFileError, UsageError
from lmkit.token_file import TokenFileWarning, TokenReader, read_sidecar

IDS = list(range(0, 3000, 7))


def test_every_integer_dtype_of_npy(tmp_path: Path) -> None:
    for dtype in ["<i2", ">i4", "<i8", "u1", "<u2", "<u4", "<u8"]:
        path = tmp_path / "a.npy"
        ids = np.array(IDS).astype(dtype)
        np.save(path, ids)
        reader = TokenReader(path)
        assert len(reader) == len(IDS)
        assert reader.read(5, 50).tolist() == ids[5:50].tolist()
        assert reader.read(len(IDS), len(IDS)).size == 0
        tokens = lmkit.open_tokens(path)
        assert tokens.tolist() == ids.tolist()
        assert not tokens.flags.writeable


def test_a_bin_without_a_sidecar_is_int32_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    np.array(IDS, "<i4").tofile(path)
    with pytest.warns(TokenFileWarning, match="int32"):
        assert lmkit.open_tokens(path).tolist() == IDS
    with path.open("ab") as file:
        file.write(b"x")
    with (
        pytest.warns(TokenFileWarning),
        pytest.raises(MalformedError, match="no whole number of int32"),
    ):
        lmkit.open_tokens(path)


def test_torn_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array(IDS, "<i4"))
    whole = path.read_bytes()
    for size in [0, 5, 9, 60, 127, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(MalformedError, match=r"a\.npy"):
            TokenReader(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(MalformedError, match="torn"):
        TokenReader(path)
    for wrong in [np.zeros(3), np.zeros((2, 2), "i4"), np.array(["a"])]:
        np.save(path, wrong)
        with pytest.raises(MalformedError, match="holds"):
            TokenReader(path)
    with pytest.raises(MissingFileError):
        TokenReader(tmp_path / "missing.npy")


def test_a_damaged_header_never_gets_through(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array(IDS, "<i4"))
    whole = path.read_bytes()
    for place in range(128):
        for byte in [0, 0x28, 0x39, 0xFF]:
            damaged = bytearray(whole)
            damaged[place] = byte
            path.write_bytes(damaged)
            try:
                ids = TokenReader(path).read(0, 3)
            except MalformedError:
                continue
            assert ids.size == 3


HEADERS = st.builds(
    lambda version, text, rest: (
        b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text + rest
    ),
    st.sampled_from([1, 1, 1, 2, 3, 9]),
    st.one_of(
        st.binary(max_size=80),
        st.text("{}()'\"descrfotan_uhpFalseTu<>i42,: 0123456789", max_size=80).map(str.encode),
        st.just(b"{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }"),
    ),
    st.binary(max_size=16),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)
NAMES = st.sampled_from(["dtype", "tokens", "smallest_id", "largest_id", "modified_ns", "inputs"])


@given(
    st.one_of(st.binary(max_size=200), HEADERS),
    st.one_of(
        st.none(),
        st.binary(max_size=50),
        st.dictionaries(NAMES, VALUES).map(lambda raw: json.dumps(raw).encode()),
        st.just(b'{"dtype": "uint16", "tokens": 6}'),
    ),
    st.sampled_from([".npy", ".bin"]),
)
@settings(max_examples=int(os.environ.get("LMKIT_EXAMPLES", "300")), deadline=None)
def test_any_bytes_are_a_token_file_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, sidecar: bytes | None, ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    beside = Path(f"{path}.json")
    path.write_bytes(data)
    beside.unlink(missing_ok=True)
    if sidecar is not None:
        beside.write_bytes(sidecar)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenFileWarning)
        try:
            reader = TokenReader(path)
        except LmkitError:
            return
    assert reader.read(0, len(reader)).nbytes <= len(data)


def test_a_sidecar_that_contradicts_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array(IDS, "<i4"))
    beside = tmp_path / "a.npy.json"
    for wrong in [
        {"dtype": "int32", "tokens": 5},
        {"dtype": "uint16", "tokens": len(IDS)},
        {"dtype": "float", "tokens": len(IDS)},
        {"tokens": len(IDS)},
        ["int32"],
    ]:
        beside.write_text(json.dumps(wrong))
        with pytest.raises(MalformedError, match="sidecar"):
            TokenReader(path)
    beside.write_text("{")
    with pytest.raises(MalformedError, match="not JSON"):
        read_sidecar(path)


def test_ids_are_believed_only_of_a_file_that_has_not_changed(tmp_path: Path) -> None:
    text, path = tmp_path / "a.txt", tmp_path / "a.npy"
    text.write_text("some text")
    tok = lmkit.Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])
    lmkit.tokenize(text, path, tok)
    sidecar = TokenReader(path).sidecar
    assert sidecar is not None
    assert sidecar.largest_id == max(b"some text")
    os.utime(path, (1, 1))
    sidecar = TokenReader(path).sidecar
    assert sidecar is None or sidecar.largest_id is None


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array(IDS, "<i4"))
    with TokenReader(path) as reader:
        os.truncate(path, 400)
        assert reader.read(0, 10).tolist() == IDS[:10]
        with pytest.raises(MalformedError, match="shrunk"):
            reader.read(0, len(IDS))
        with pytest.raises(UsageError, match="no tokens"):
            reader.read(0, len(IDS) + 1)
