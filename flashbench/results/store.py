"""Results files: write them whole or not at all, and check their types when reading."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
from pathlib import Path
from typing import Literal

import msgspec

from flashbench.errors import ResultsError, mid_sentence
from flashbench.results.beside import digest
from flashbench.results.hosts import each_host
from flashbench.results.record import SCHEMA_VERSION, Results
from flashbench.results.upgrade import STEPS, upgrade
from flashbench.texts import indented_json


class _Header(msgspec.Struct):
    """The field that every version of the file has. Read first, it tells a newer file from a broken one."""

    schema_version: int


def encode(results: Results) -> bytes:
    """The file's bytes: indented JSON, ending in a newline."""
    return indented_json(results)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ResultsError if `save` could not write there: call this before a long run."""
    target = Path(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            target.stat()
        parent = target.resolve().parent
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, links in a circle, a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise ResultsError(f"cannot write {target}: {mid_sentence(reason)}") from error
    if target.is_dir():
        raise ResultsError(f"cannot write {target}: it is a directory", hint="name a file in it")
    if not parent.is_dir():
        raise ResultsError(
            f"cannot write {target}: there is no directory {parent}", hint=f"mkdir -p {parent}"
        )
    # A file is replaced, so its directory must be writable. The file must be too: a read-only file is one to
    # keep. A pipe or a device is written to.
    asked = [target] if target.exists() else []
    asked += [parent] if not asked or target.is_file() else []
    for each in asked:
        if not os.access(each, os.W_OK):
            raise ResultsError(f"cannot write {target}: no permission to write to {each}")


def save(results: Results, path: str | os.PathLike[str]) -> None:
    """Write the file in one step: at every moment `path` is the old file or the whole new one.

    Raises ResultsError when it cannot be written. An existing file then stays unchanged.
    """
    write_whole(path, encode(results))


def write_whole(path: str | os.PathLike[str], content: bytes, *, durable: bool = True) -> None:
    """`save` for any bytes. Without `durable` the file survives this process, but not a power cut."""
    check_writable(path)
    try:
        # Follow a symbolic link: replace its target, and keep the link.
        _write(Path(path).resolve(), content, durable)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error


def _write(target: Path, content: bytes, durable: bool) -> None:
    if target.exists() and not target.is_file():  # a pipe or a device has no old content to keep
        target.write_bytes(content)
        return
    # In the same directory: os.replace is atomic only within one file system.
    part = target.with_name(f".flashbench-{digest(target)}-{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        _sync_directory(target.parent)


def remove_parts(path: str | os.PathLike[str]) -> None:
    """Remove the parts of this file that killed writers left beside it."""
    target = Path(path).resolve()
    for part in target.parent.glob(f".flashbench-{digest(target)}-*.part"):
        part.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Make the new name survive a power cut, where the system can (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_OF_MODELS = {"train": "training steps", "infer": "tests of inference"}


def load(path: str | os.PathLike[str]) -> Results:
    """Read a results file of this schema version or an older one.

    Raises ResultsError, in one line: not found, unreadable, truncated, not JSON, not a results file, of
    another schema version, or with a wrong field, which it names like `$.measurements[3].time`.
    """
    return decode(_read(path), name=str(path))


def load_measurements(path: str | os.PathLike[str]) -> Results:
    """`load` a file of measurements. Also raises ResultsError if the file holds rows of whole models."""
    results = load(path)
    hosts = each_host(results)
    has_steps, has_tests = any(each.training for each in hosts), any(each.inference for each in hosts)
    kind = "train" if has_steps else "infer" if has_tests else results.kind
    if kind in _OF_MODELS:
        shows = f"{kind} --show {path} prints" if results.kind == kind else f"report {path} has"
        raise ResultsError(
            f'{path} holds {_OF_MODELS[kind]} (kind "{results.kind}"), and this command takes '
            "measurements of attention",
            hint=f"flashbench {shows} their tables",
        )
    return results


def load_of(kind: Literal["train", "infer"], path: str | os.PathLike[str]) -> Results:
    """`load` a file of rows of whole models. Raises ResultsError if it is of another kind, or holds none."""
    results = load(path)
    what = _OF_MODELS[kind]
    if results.kind != kind:
        raise ResultsError(f'{path} is of kind "{results.kind}", and holds no {what}')
    if not results.rows:
        raise ResultsError(f"{path} holds no {what}")
    return results


def one_host(results: Results, path: str, rule: str) -> Results:
    """The results of the file's only host. rule: why several cannot be taken together.

    Raises ResultsError if there are several.
    """
    first, *others = each_host(results)
    if others:
        raise ResultsError(
            f"{path} holds {1 + len(others)} hosts: {rule}",
            hint=f"each of its hosts is a results file: jq '.hosts[0]' {shlex.quote(path)} > one.json",
        )
    return first


def decode(content: bytes, *, name: str) -> Results:
    """`load` from bytes; error messages begin with `name`."""
    if not content.strip():
        raise ResultsError(f"{name} is empty, not a results file")
    try:
        content.decode("utf-8")  # check all of it: msgspec checks only the strings that it reads
        header = msgspec.json.decode(content, type=_Header)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ResultsError(
            f"{name} is not a results file of flashbench: it has no whole number schema_version",
            hint="flashbench profile --save FILE writes one",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if "truncated" in str(error):
            raise ResultsError(f"{name} is truncated: it ends after {len(content)} bytes") from error
        reason = str(error).removeprefix("JSON is malformed: ")
        raise ResultsError(f"{name} is not JSON: {reason}") from error
    version = header.schema_version
    if version != SCHEMA_VERSION and version not in STEPS:
        newer = version > SCHEMA_VERSION
        raise ResultsError(
            f"{name} was written by {'a newer' if newer else 'another'} flashbench: "
            f"schema_version {version}, this one reads {min(STEPS)} to {SCHEMA_VERSION}",
            hint="pip install --upgrade flashbench" if newer else None,
        )
    try:
        if version == SCHEMA_VERSION:
            return msgspec.json.decode(content, type=Results)
        return msgspec.convert(upgrade(msgspec.json.decode(content), SCHEMA_VERSION), type=Results)
    except (AttributeError, KeyError, TypeError) as error:  # an upgrade met data that version 1 never had
        raise ResultsError(f"{name} is not a results file of schema_version {version}: {error!r}") from error
    except msgspec.ValidationError as error:
        raise ResultsError(f"{name} has a wrong field: {mid_sentence(str(error))}") from error


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ResultsError(f"results file {path} is not found") from error
    except IsADirectoryError as error:
        raise ResultsError(f"{path} is a directory, not a results file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ResultsError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
