"""The outcomes of a run, and the table that keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.plan import path_for
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
from flashbench.studies.tune.plan import search_problem, seqlen_from

HINT = "set FLASHBENCH_CACHE_DIR to a directory that can be written"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one key."""

    key: Key
    tried: Blocks | None  # the fastest candidate; None: it was the built-in choice
    heads_from: int | None  # the fewest heads with which `tried` is used; None: the built-in choice stays
    threads: int
    checks: list[Check] = []
    failure: str | None = None  # one line: its process died or hung

    @classmethod
    def of(cls, key: Key, threads: int, duel: Duel | None, failure: str | None) -> Outcome:
        """The outcome of the duel, or of a key without one."""
        if duel is None or failure is not None:
            tried = None if duel is None else duel.blocks
            return cls(key=key, tried=tried, heads_from=None, threads=threads, failure=failure)
        checks = duel.checks()
        won = heads_won(checks)
        return cls(key=key, tried=duel.blocks, heads_from=won, threads=threads, checks=checks)


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """The outcomes of a run, or of the keys in a table."""

    schema_version: int = 1
    path: str
    cpu: str
    asked: int  # number of keys to tune
    outcomes: list[Outcome]
    others_cores: float = 0.0  # cores that other processes kept busy during timed bursts

    @property
    def exit_code(self) -> int:
        """1 if a process failed, else 0."""
        return 1 if any(outcome.failure for outcome in self.outcomes) else 0


def find_table() -> Path:
    """The path of this CPU's table, which need not exist. Raises ResultsError if there is no place for it."""
    try:
        return table_path()
    except OSError as error:
        raise ResultsError(f"there is no place for tuned block sizes: {error}", hint=HINT) from error


def make_writable(path: Path) -> None:
    """Make the table's directory. Raises ResultsError if the table could not be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except ResultsError as error:
        raise ResultsError(str(error), hint=HINT) from error
    except OSError as error:
        raise ResultsError(f"cannot make {path.parent}: {error.strerror or error}", hint=HINT) from error


def keep(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Add the keys that were won to the table, and remove those that were not.

    Keys of other runs stay, even of a run that writes its own at the same time.
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
            problem = search_problem(outcome.key, outcome.threads)
            entries[outcome.key] = Entry(
                dtype=outcome.key.dtype,
                head_dim=outcome.key.head_dim,
                causal=outcome.key.causal,
                direction=outcome.key.direction,
                path=path_for(problem, outcome.key.direction, None).product.name,
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
    """Delete this CPU's table, even if it is damaged, and return its path; None if there is none.

    Raises ResultsError if it cannot be deleted.
    """
    path = find_table()
    try:
        path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultsError(f"cannot delete {path}: {error.strerror or error}") from error
    return path
