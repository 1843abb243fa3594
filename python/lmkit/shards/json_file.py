"""The JSON files of a data set: read with errors that name them, written to equal bytes.

Shared by plan, receipt and manifest: an object with a ``format`` that counts up whenever readers of
the old form would misunderstand the new one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmkit.errors import MalformedError, MissingFileError, SystemRefusedError

FORMAT = 1


def read_bytes(path: Path) -> bytes:
    """The bytes of ``path``.

    Raises:
        MissingFileError: there is no such file.
        SystemRefusedError: the system refused to read it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file") from error
    except OSError as error:
        raise SystemRefusedError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def parse(raw: bytes, where: str, what: str) -> dict[str, Any]:
    """The object that ``raw`` spells.

    Args:
        raw: JSON.
        where: what errors call it: a path or an address.
        what: what it should be: ``"manifest"``.

    Raises:
        MalformedError: it is none, or one of a newer lmkit.
    """
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise MalformedError(f"{where}: not a {what}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise MalformedError(f"{where}: not a {what}")
    if content["format"] > FORMAT:
        writer = content.get("lmkit", "of unknown version")
        raise MalformedError(
            f"{where}: a {what} of format {content['format']}, written by lmkit {writer}; "
            f"this lmkit reads format {FORMAT}",
            hint="update lmkit",
        )
    return content


def spell(content: Mapping[str, Any]) -> bytes:
    """``content`` as JSON; equal contents give equal bytes. Rows of lists take a line each."""
    lines = [f'  "format": {FORMAT}']
    for name, value in content.items():
        if isinstance(value, list | tuple) and value and isinstance(value[0], list | dict):
            rows = ",\n".join(f"    {_compact(row)}" for row in value)
            lines.append(f"  {_compact(name)}: [\n{rows}\n  ]")
        else:
            lines.append(f"  {_compact(name)}: {_compact(value)}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "surrogatepass")


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def check_fields(content: Mapping[str, Any], wanted: Mapping[str, type | tuple[type, ...]]) -> str:
    """The name of the first field that is missing or of another type; empty where all are right."""
    for name, kind in wanted.items():
        if name not in content or not isinstance(content[name], kind):
            return name
        if isinstance(content[name], bool) and kind is int:
            return name
    return ""
