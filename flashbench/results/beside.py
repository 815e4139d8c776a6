"""Names for files beside another file: never longer than the file system allows."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

LONGEST = 255  # bytes of a name, if the system does not say


def beside(path: Path, word: str) -> Path:
    """`run.partial.json` for `run.json` and "partial"; the same name each time.

    A name that is too long gets a shorter stem, and a hash of the whole name that keeps it unique.
    """
    name = f"{path.stem}.{word}{path.suffix}"
    longest = _longest_name(path.parent)
    if len(os.fsencode(name)) <= longest:
        return path.with_name(name)
    ending = f"~{digest(path)}.{word}"
    # Drop a suffix that alone would fill the name.
    ending += path.suffix if len(os.fsencode(ending + path.suffix)) < longest // 2 else ""
    stem = path.stem
    while len(os.fsencode(stem + ending)) > longest:
        stem = stem[:-1]
    return path.with_name(stem + ending)


def digest(path: Path) -> str:
    """Twelve hexadecimal digits of the file's name, without its directory."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]


def _longest_name(directory: Path) -> int:
    try:
        return os.pathconf(directory, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows; a directory that is not there
        return LONGEST
