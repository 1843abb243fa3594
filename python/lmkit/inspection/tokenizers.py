"""Tokenizers of every form → what they hold."""

import json
import warnings
from pathlib import Path
from shlex import quote

from lmkit.errors import LmkitError, MalformedError
from lmkit.inspection.report import Ask, Report, size_in
from lmkit.token_view import shown
from lmkit.tokenizer import Tokenizer

_SPECIALS_SHOWN = 20


def tokenizer(path: str, _ask: Ask) -> Report:
    """A tokenizer folder, ``tokenizer.json`` or ``.tiktoken`` file."""
    report = Report(path, _kind(Path(path)), {"bytes": size_in(path)})
    option = f"--tokenizer {quote(path)}"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = Tokenizer.load(path)
    except LmkitError as error:
        report.damaged(error)
        return report
    report.notes += [str(warning.message) for warning in caught]
    _tell(report, loaded, option)
    recorded = Path(path, "lmkit.json")
    if Path(path).is_dir() and recorded.exists():
        _compare(report, loaded, recorded)
    else:
        report.whole, report.checked = True, "it loads; its format has no checksum"
    return report


def pair(path: str, _ask: Ask) -> Report:
    """A GPT-2 style vocabulary or its merges, with the other of the two if it is found beside."""
    place = Path(path)
    is_merges = _is_merges(place)
    other = _partner(place, is_merges=is_merges)
    kind = "merges, GPT-2 style" if is_merges else "a vocabulary, GPT-2 style"
    report = Report(path, kind, {"bytes": size_in(path)})
    if other is None:
        wanted = "vocabulary" if is_merges else "merges"
        report.notes.append(f"the {wanted} that belong to it are not beside it")
        if is_merges:
            lines = place.read_text("utf-8", errors="replace").splitlines()
            report.facts["merges"] = sum(bool(line) for line in lines if line[:8] != "#version")
        else:
            ids = json.loads(place.read_bytes()).values()
            report.facts |= {"tokens": len(ids), "largest_id": max(ids)}
        return report
    vocab, merges = (other, place) if is_merges else (place, other)
    report.facts["beside"] = str(other)
    try:
        loaded = Tokenizer.from_files(vocab, merges)
    except LmkitError as error:
        report.damaged(error)
        return report
    _tell(report, loaded, f"--vocab_path {quote(str(vocab))} --merges_path {quote(str(merges))}")
    report.whole, report.checked = True, "both load and fit each other; they have no checksum"
    return report


def pair_of(place: Path) -> tuple[Path, Path] | None:
    """Vocabulary and merges, where ``place`` is one of the two and the other is beside it."""
    if place.is_dir() or place.suffix == ".tiktoken":
        return None
    is_merges = _is_merges(place)
    other = _partner(place, is_merges=is_merges)
    if other is None:
        return None
    if not is_merges:
        try:
            told = json.loads(place.read_bytes())
        except ValueError:  # which whoever reads the two puts into words
            told = {}
        if isinstance(told.get("model"), dict):  # Hugging Face's; "model" may be a token as well
            return None
    return (other, place) if is_merges else (place, other)


def _is_merges(place: Path) -> bool:
    with place.open("rb") as file:
        return not file.read(4096).lstrip().startswith(b"{")


def _partner(place: Path, *, is_merges: bool) -> Path | None:
    if is_merges:
        names = [f"{place.stem}.vocab", f"{place.stem}.json", "vocab.json", "encoder.json"]
    else:
        names = [f"{place.stem}.merges", f"{place.stem}.txt", "merges.txt", "vocab.bpe"]
    found = (place.with_name(name) for name in names)
    return next((path for path in found if path.is_file() and path != place), None)


def _kind(place: Path) -> str:
    if place.is_dir():
        return "a tokenizer folder"
    return "a Hugging Face tokenizer" if place.suffix == ".json" else "a tiktoken rank file"


def _tell(report: Report, loaded: Tokenizer, option: str) -> None:
    vocab = loaded.vocab
    longest = max(vocab.values(), key=len)
    specials = loaded.special_tokens
    report.facts |= {
        "vocab_size": loaded.vocab_size,
        "tokens": len(vocab),
        "merges": len(loaded.merges),
        "pattern": loaded.pattern,
        "special_tokens": dict(list(specials.items())[:_SPECIALS_SHOWN]),
        "longest_token": shown(longest),
        "fingerprint": loaded.fingerprint,
    }
    if len(specials) > _SPECIALS_SHOWN:
        report.facts["special_tokens_in_all"] = len(specials)
    report.use += [
        f"lmkit tokenize {option} --data_path text.txt --output_path train.npy",
        f'lmkit inspect {quote(report.path)} --text "some text"',
    ]


def _compare(report: Report, loaded: Tokenizer, recorded: Path) -> None:
    try:
        told = json.loads(recorded.read_bytes())
        fingerprint = str(told["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        report.damaged(MalformedError(f"{recorded}: not lmkit's: {error}"))
        return
    report.facts["lmkit_version"] = told.get("lmkit_version")
    if fingerprint.removeprefix("sha256:") != loaded.fingerprint.removeprefix("sha256:"):
        report.damaged(
            MalformedError(
                f"{report.path}: its files make fingerprint {loaded.fingerprint[:12]}, and "
                f"{recorded.name} speaks of {fingerprint[:12]}"
            )
        )
        return
    report.whole, report.checked = True, f"its files make the fingerprint in {recorded.name}"
