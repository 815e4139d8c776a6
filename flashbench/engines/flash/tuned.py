"""The table of tuned block sizes: one file per CPU. `studies.tune` writes it.

A process reads it once, at its first call, and keeps it. So results keep their bits in a long-lived process.
"""

from __future__ import annotations

import hashlib
import platform
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

import archspec.cpu
import llvmlite.binding as llvm
import msgspec
from numba.core import config

from flashbench.codegen.compiled import KERNEL_SOURCES, cache_directory, chosen_directory
from flashbench.codegen.isa import ISA
from flashbench.dtypes import Dtype
from flashbench.engines.flash.block_sizes import Blocks, Pass
from flashbench.problem import AttentionProblem
from flashbench.system.cores import available_cores

# Version history
#   2  2026-11: the path of an entry.
#   1  2026-11: first version.
SCHEMA_VERSION = 2
MOST_ROWS = 1024  # the largest block_q and block_k

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
_Rows = Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)]
_Ratio = Annotated[float, msgspec.Meta(gt=0)]


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comparison of tuned and built-in block sizes on one problem, in fresh processes."""

    seqlen: _Count
    heads: _Count
    built_in: tuple[_Rows, _Rows]  # (block_q, block_k) by rule
    ratio: _Ratio  # tuned time / built-in time; low, high: its interval
    low: _Ratio
    high: _Ratio


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Block sizes for seqlen_from <= length < 2 * seqlen_from."""

    dtype: Dtype
    head_dim: _Count
    causal: bool
    direction: Pass
    path: str  # of its products, a name in kernels/products/paths.py
    seqlen_from: _Count  # a power of two
    heads_from: _Count  # for problems with at least this batch * num_kv_heads
    block_q: _Rows
    block_k: _Rows
    threads: _Count  # the number of threads when it was tuned
    checks: list[Check]

    @property
    def key(self) -> Key:
        return Key(self.dtype, self.head_dim, self.causal, self.direction, band_of(self.seqlen_from))


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of tuned block sizes."""

    schema_version: int
    checksum: str  # of all other fields
    cpu: str
    kernels: str  # hash of the sources of the tuned kernels
    entries: list[Entry]


class Key(NamedTuple):
    """The key of an entry."""

    dtype: Dtype
    head_dim: int
    causal: bool
    direction: Pass
    band: int


class Choice(NamedTuple):
    """The block sizes of an entry, and the smallest problem that they are for."""

    blocks: Blocks
    path: str
    seqlen_from: int
    heads_from: int


# The keys are plain tuples: a call makes one faster than a Key, and they compare equal.
_Choices: TypeAlias = Mapping[tuple[Dtype, int, bool, Pass, int], Choice]
_read: _Choices | None = None
_warned: dict[str | tuple[str, type[Warning], int], int] = {}


class _Header(msgspec.Struct):
    """The field that every version of the file has."""

    schema_version: int


def band_of(seqlen: int) -> int:
    """The number of a band of lengths between powers of two: 11 for 1024 to 2047."""
    return seqlen.bit_length()


@cache
def this_cpu() -> str:
    """The CPU as kernels depend on it: its name, the compiler's target, the instruction set.

    The name alone is not enough: hypervisors use one name for several generations.
    """
    name = archspec.cpu.brand_string() or platform.processor() or platform.machine()
    return f"{name}, {config.CPU_NAME or llvm.get_host_cpu_name()}, {ISA.name}"


def table_path() -> Path:
    """The path of this CPU's table: in $FLASHBENCH_TUNED_DIR, or in `tuned` of the cache directory.

    Raises OSError if there is neither: see `cache_directory`.
    """
    directory = chosen_directory("FLASHBENCH_TUNED_DIR") or cache_directory() / "tuned"
    return directory / f"{re.sub(r'[^a-z0-9]+', '-', this_cpu().lower()).strip('-')}.json"


def encode(entries: list[Entry]) -> bytes:
    """The content of a table file for this CPU and these kernels: indented JSON, ending in a newline."""
    table = Table(
        schema_version=SCHEMA_VERSION, checksum="", cpu=this_cpu(), kernels=KERNEL_SOURCES, entries=entries
    )
    table = msgspec.structs.replace(table, checksum=_checksum(table))
    return msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n"


def read_entries(path: Path) -> tuple[list[Entry], str | None]:
    """(entries, reason): the entries of a file, or none and the reason to ignore it, in one line.

    reason is None if the file is used, or does not exist. Raises TimeoutError from a signal handler.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], None
    except TimeoutError:  # from a signal handler, for a deadline
        raise
    except OSError as error:
        return [], f"{path} cannot be read ({error.strerror or error})"
    try:
        version = msgspec.json.decode(content, type=_Header).schema_version
        if version != SCHEMA_VERSION:
            which = "a newer" if version > SCHEMA_VERSION else "another"
            reason = f"was written by {which} flashbench (schema_version {version}, not {SCHEMA_VERSION})"
            return [], f"{path} {reason}"
        table = msgspec.json.decode(content, type=Table)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [], f"{path} is damaged"
    if table.checksum != _checksum(table):
        return [], f"{path} is damaged"
    if table.cpu != this_cpu():
        return [], f"{path} is of another CPU ({table.cpu})"
    if table.kernels != KERNEL_SOURCES:
        return [], f"{path} is of another flashbench, whose kernels differ"
    return table.entries, None


def tuned_blocks(problem: AttentionProblem, direction: Pass, path: str) -> Blocks | None:
    """The table's block sizes for a problem and the path of its products; None if it has no entry.

    They depend on the problem only, not on the call's number of threads, so the bits of the result do too.
    """
    choices = _choices()
    if not choices:
        return None
    key = (problem.dtype, problem.head_dim, problem.causal, direction, problem.seqlen_k.bit_length())
    choice = choices.get(key)
    if (
        choice is None
        or choice.path != path
        or problem.seqlen_q < choice.seqlen_from
        or problem.batch * problem.num_kv_heads < choice.heads_from
        or problem.head_dim_v != problem.head_dim
        or problem.features  # entries are tuned without features
    ):
        return None
    return choice.blocks


def _choices() -> _Choices:
    """The table. The first call reads it, and warns in one line if the file is ignored."""
    global _read
    if _read is None:
        try:
            path = table_path()
        except OSError:  # a user without a home directory has no table
            _read = {}
            return _read
        entries, ignored = read_entries(path)
        cores = available_cores()
        # More threads need more tiles: entries tuned on fewer threads may be too coarse here.
        _read = {
            entry.key: Choice(
                Blocks(entry.block_q, entry.block_k), entry.path, entry.seqlen_from, entry.heads_from
            )
            for entry in entries
            if entry.threads >= cores
        }
        if ignored is not None:
            warn_ignored(path, ignored)
    return _read


def warn_ignored(path: Path, reason: str) -> None:
    """Warn in one line. With line number 0, Python prints no source line below it."""
    message = f"tuned block sizes are not used: {reason}; flashbench tune makes them anew"
    warnings.warn_explicit(message, RuntimeWarning, str(path), 0, module=__name__, registry=_warned)


def _checksum(table: Table) -> str:
    rest = msgspec.json.encode(msgspec.structs.replace(table, checksum=""))
    return hashlib.sha256(rest).hexdigest()
