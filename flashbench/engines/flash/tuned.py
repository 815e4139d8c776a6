"""The table of tuned block sizes: one file per CPU, read once per process; `studies.tune` fills it.

A long-lived process keeps the table that it began with, so that its results keep their bits.
"""

from __future__ import annotations

import hashlib
import platform
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

import archspec.cpu
import llvmlite.binding as llvm
import msgspec
from numba.core import config

from flashbench.codegen.compiled import KERNEL_SOURCES, cache_directory, chosen_directory
from flashbench.codegen.isa import ISA
from flashbench.dtypes import Dtype
from flashbench.engines.flash.block_sizes import Blocks
from flashbench.problem import AttentionProblem
from flashbench.system.cores import available_cores

# Version history
#   1  2026-11: first version.
SCHEMA_VERSION = 1
MOST_ROWS = 1024  # of a tile, in either direction

Pass: TypeAlias = Literal["fwd", "bwd"]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
_Rows = Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)]
_Ratio = Annotated[float, msgspec.Meta(gt=0)]


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tuned against built-in blocks on one problem, in fresh processes."""

    seqlen: _Count
    heads: _Count
    built_in: tuple[_Rows, _Rows]  # (block_q, block_k) that the rule chooses there
    ratio: _Ratio  # tuned over built-in time, with its interval
    low: _Ratio
    high: _Ratio


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Block sizes for lengths from `seqlen_from` up to, but not including, twice that."""

    dtype: Dtype
    head_dim: _Count
    causal: bool
    direction: Pass
    seqlen_from: _Count  # a power of two
    heads_from: _Count  # for problems of at least so many key/value heads, batch included
    block_q: _Rows
    block_k: _Rows
    threads: _Count  # it was tuned on
    checks: list[Check]

    @property
    def key(self) -> Key:
        return Key(self.dtype, self.head_dim, self.causal, self.direction, band_of(self.seqlen_from))


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of tuned block sizes."""

    schema_version: int
    checksum: str  # of all the rest
    cpu: str
    kernels: str  # hash of the kernels' sources that were tuned
    entries: list[Entry]


class Key(NamedTuple):
    """What an entry is found by."""

    dtype: Dtype
    head_dim: int
    causal: bool
    direction: Pass
    band: int


class Choice(NamedTuple):
    """What an entry says, and from which size of problem on."""

    blocks: Blocks
    seqlen_from: int
    heads_from: int


# By plain tuples, which are made at every call; a Key is equal to one.
_Choices: TypeAlias = Mapping[tuple[Dtype, int, bool, Pass, int], Choice]
_read: _Choices | None = None
_warned: dict[str | tuple[str, type[Warning], int], int] = {}


class _Header(msgspec.Struct):
    """What every version of the file has."""

    schema_version: int


def band_of(seqlen: int) -> int:
    """Number of the band of lengths between powers of two: 11 for 1024 to 2047."""
    return seqlen.bit_length()


@cache
def this_cpu() -> str:
    """The CPU as far as it matters to kernels: its name, what they are compiled for, their vectors.

    The name alone is not enough: hypervisors give one name to several generations.
    """
    name = archspec.cpu.brand_string() or platform.processor() or platform.machine()
    return f"{name}, {config.CPU_NAME or llvm.get_host_cpu_name()}, {ISA.name}"


def table_path() -> Path:
    """Where this CPU's table is: in $FLASHBENCH_TUNED_DIR, or in `tuned` of the cache directory.

    Raises OSError where there is neither: see `cache_directory`.
    """
    directory = chosen_directory("FLASHBENCH_TUNED_DIR") or cache_directory() / "tuned"
    return directory / f"{re.sub(r'[^a-z0-9]+', '-', this_cpu().lower()).strip('-')}.json"


def encode(entries: list[Entry]) -> bytes:
    """This CPU's and these kernels' table as a file: indented JSON, ending in a newline."""
    table = Table(
        schema_version=SCHEMA_VERSION, checksum="", cpu=this_cpu(), kernels=KERNEL_SOURCES, entries=entries
    )
    table = msgspec.structs.replace(table, checksum=_checksum(table))
    return msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n"


def read_entries(path: Path) -> tuple[list[Entry], str | None]:
    """The file's entries, and in a line why it is ignored, None if it is not or there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], None
    except TimeoutError:  # of a signal handler, for a deadline
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


def tuned_blocks(problem: AttentionProblem, direction: Pass) -> Blocks | None:
    """What the table says of this problem; None: nothing.

    It depends on the problem alone, not on a call's number of threads, and so do the bits of the result.
    """
    choices = _choices()
    if not choices:
        return None
    key = (problem.dtype, problem.head_dim, problem.causal, direction, problem.seqlen_k.bit_length())
    choice = choices.get(key)
    if (
        choice is None
        or problem.seqlen_q < choice.seqlen_from
        or problem.batch * problem.num_kv_heads < choice.heads_from
        or problem.head_dim_v != problem.head_dim
        or problem.features  # it was proved without
    ):
        return None
    return choice.blocks


def _choices() -> _Choices:
    """The table; reads it at the first call and warns there, in one line, when it is ignored."""
    global _read
    if _read is None:
        try:
            path = table_path()
        except OSError:  # a user without a home has tuned nothing
            _read = {}
            return _read
        entries, ignored = read_entries(path)
        cores = available_cores()
        # More threads need more tiles: what was tuned on fewer may be too coarse here.
        _read = {
            entry.key: Choice(Blocks(entry.block_q, entry.block_k), entry.seqlen_from, entry.heads_from)
            for entry in entries
            if entry.threads >= cores
        }
        if ignored is not None:
            warn_ignored(path, ignored)
    return _read


def warn_ignored(path: Path, reason: str) -> None:
    """One line, and one only: line 0 of the file is none that Python could quote below it."""
    message = f"tuned block sizes are not used: {reason}; flashbench tune makes them anew"
    warnings.warn_explicit(message, RuntimeWarning, str(path), 0, module=__name__, registry=_warned)


def _checksum(table: Table) -> str:
    rest = msgspec.json.encode(msgspec.structs.replace(table, checksum=""))
    return hashlib.sha256(rest).hexdigest()
