"""Names of files that stand beside another: legal wherever that one's name is, however long it is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

LONGEST = 255  # bytes of a name, where the system does not say


def beside(path: Path, word: str) -> Path:
    """`run.partial.json` for `run.json` and "partial"; the same name each time.

    Where that is longer than the file system allows, its stem is cut, and a hash of the whole name tells it
    from others.
    """
    name = f"{path.stem}.{word}{path.suffix}"
    longest = _longest_name(path.parent)
    if len(os.fsencode(name)) <= longest:
        return path.with_name(name)
    ending = f"~{digest(path)}.{word}"
    # A suffix as long as that is no suffix.
    ending += path.suffix if len(os.fsencode(ending + path.suffix)) < longest // 2 else ""
    stem = path.stem
    while len(os.fsencode(stem + ending)) > longest:
        stem = stem[:-1]
    return path.with_name(stem + ending)


def digest(path: Path) -> str:
    """Twelve hexadecimal digits of the file's name, its directory apart."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]


def _longest_name(directory: Path) -> int:
    try:
        return os.pathconf(directory, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows; a directory that is not there
        return LONGEST
