"""What a run found, and the table that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.tuned import (
    Check,
    Entry,
    Key,
    encode,
    read_entries,
    table_path,
    this_cpu,
    warn_ignored,
)
from flashbench.errors import ResultsError
from flashbench.results.lock import exclusively
from flashbench.results.store import check_writable, write_whole
from flashbench.studies.tune.contest import Duel, heads_won
from flashbench.studies.tune.plan import seqlen_from

HINT = "set FLASHBENCH_CACHE_DIR to a directory that can be written"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one key."""

    key: Key
    tried: Blocks | None  # the fastest candidate; None: that was the built-in choice
    heads_from: int | None  # where it is used; None: the built-in choice was kept
    threads: int
    checks: list[Check] = []
    failure: str | None = None  # one line: its process died or hung

    @classmethod
    def of(cls, key: Key, threads: int, duel: Duel | None, failure: str | None) -> Outcome:
        """As the duel went, if there was one."""
        if duel is None or failure is not None:
            tried = None if duel is None else duel.blocks
            return cls(key=key, tried=tried, heads_from=None, threads=threads, failure=failure)
        checks = duel.checks()
        won = heads_won(checks)
        return cls(key=key, tried=duel.blocks, heads_from=won, threads=threads, checks=checks)


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found, or what a table holds."""

    schema_version: int = 1
    path: str
    cpu: str
    asked: int  # keys
    outcomes: list[Outcome]
    others_cores: float = 0.0  # kept busy by other processes while it was timed

    @property
    def exit_code(self) -> int:
        """1: a process failed."""
        return 1 if any(outcome.failure for outcome in self.outcomes) else 0


def find_table() -> Path:
    """Where this CPU's table is or would be. Raises ResultsError where no place is known."""
    try:
        return table_path()
    except OSError as error:
        raise ResultsError(f"there is no place for tuned block sizes: {error}", hint=HINT) from error


def make_writable(path: Path) -> None:
    """Make the table's directory. Raises ResultsError when the table could not be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except ResultsError as error:
        raise ResultsError(str(error), hint=HINT) from error
    except OSError as error:
        raise ResultsError(f"cannot make {path.parent}: {error.strerror or error}", hint=HINT) from error


def keep(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Put what was won into the table and take out what was not; keys of other runs stay, also of one that
    keeps its own at the same time.
    """
    with exclusively(path):
        _keep(path, outcomes)


def _keep(path: Path, outcomes: Sequence[Outcome]) -> None:
    old, ignored = read_entries(path)
    if ignored is not None:
        warn_ignored(path, ignored)
    entries = {entry.key: entry for entry in old}
    for outcome in outcomes:
        if outcome.failure is None:
            entries.pop(outcome.key, None)
        if outcome.tried is not None and outcome.heads_from is not None:
            entries[outcome.key] = Entry(
                dtype=outcome.key.dtype,
                head_dim=outcome.key.head_dim,
                causal=outcome.key.causal,
                direction=outcome.key.direction,
                seqlen_from=seqlen_from(outcome.key),
                heads_from=outcome.heads_from,
                block_q=outcome.tried.block_q,
                block_k=outcome.tried.block_k,
                threads=outcome.threads,
                checks=outcome.checks,
            )
    if entries or path.exists():
        write_whole(path, encode([entries[key] for key in sorted(entries)]))


def shown() -> Tuned:
    """The table in use."""
    path = find_table()
    entries, ignored = read_entries(path)
    if ignored is not None:
        warn_ignored(path, ignored)
    outcomes = [
        Outcome(
            key=entry.key,
            tried=Blocks(entry.block_q, entry.block_k),
            heads_from=entry.heads_from,
            threads=entry.threads,
            checks=entry.checks,
        )
        for entry in entries
    ]
    return Tuned(path=str(path), cpu=this_cpu(), asked=len(outcomes), outcomes=outcomes)


def reset() -> Path | None:
    """Delete this CPU's table, in whatever state, and say which that was; None: there is none."""
    path = find_table()
    try:
        path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultsError(f"cannot delete {path}: {error.strerror or error}") from error
    return path
