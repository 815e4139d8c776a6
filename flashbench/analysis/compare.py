"""Two results files against each other: whether they are comparable, and their matching rows."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from flashbench.analysis.groups import grouped
from flashbench.analysis.pairs import Pair, judge_pairs, least_processes, p_value, processes_of
from flashbench.analysis.row_keys import AnyKey, Key, rows_by_key
from flashbench.analysis.scaling import has_scaling
from flashbench.analysis.settings import comparable_settings
from flashbench.analysis.verdict import FAILED, verdicts_exit_code
from flashbench.analysis.whole_models import model_rows
from flashbench.analysis.words import counted
from flashbench.errors import ResultsError
from flashbench.results.one_line import one_line
from flashbench.results.record import AnyRow, Results


class IncomparableError(ResultsError):
    """The files have different machines or settings, or no measurement in common."""

    exit_code = 3


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A setting or a property of the machine in which the files differ."""

    name: str
    base: str
    new: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `flashbench compare`; `--format json` prints it."""

    schema_version: int = 1
    base_name: str
    new_name: str
    fail_over: float
    differences: list[Difference]  # reasons against a comparison that --force overruled
    remarks: list[str]  # what else a reader should know
    pairs: list[Pair]
    only_in_base: list[AnyRow]
    only_in_new: list[AnyRow]

    @property
    def exit_code(self) -> int:
        """1: something regressed. 4: nothing regressed, but something failed in the new file, or everything
        in both. 3: something is inconclusive, or failed only in the base. 0: all are the same or improved.
        """
        if all(pair.base.status != "ok" and pair.new.status != "ok" for pair in self.pairs):
            return FAILED
        return verdicts_exit_code((pair.verdict, pair.new) for pair in self.pairs)


class Match(NamedTuple):
    """Two comparable files: the rows that both have, and those of one alone. Nothing is judged yet."""

    base: Results
    new: Results
    names: tuple[str, str]
    differences: list[Difference]
    sides: list[tuple[AnyRow, AnyRow]]
    only_in_base: list[AnyRow]
    only_in_new: list[AnyRow]


def compare(
    base: Results,
    new: Results,
    *,
    base_name: str = "base",
    new_name: str = "new",
    fail_over: float = 0.05,
    force: bool = False,
) -> Comparison:
    """Match the rows of two files, measurements of attention or of whole models, and judge each pair.

    The files were not measured in turns, so the comparison is unpaired, over the medians of processes: a
    ratio with its bootstrap interval, and the Mann-Whitney test adjusted for the number of pairs (Holm).

    - regressed: the whole interval is above 1 + fail_over and chance is excluded, or memory is above it
    - improved: the whole interval is below 1 / (1 + fail_over) and chance is excluded
    - same: the interval is between these, or both files hold the same measurement, like a file and its copy
    - failed: one side has no valid time, because it crashed, is unsupported or is too large
    - inconclusive: anything else, and everything with too few processes to exclude chance

    Raises IncomparableError if machines or settings differ and `force` is not set, and if no measurement is
    in both. force: also match measurements that differ only in their block size.
    """
    return judged([match(base, new, names=(base_name, new_name), force=force)], fail_over)[0]


def match(base: Results, new: Results, *, names: tuple[str, str], force: bool = False) -> Match:
    """The rows that both files have. Raises IncomparableError, as `compare` does."""
    differences = _differences(base, new)
    if differences and not force:
        listed = "; ".join(f"{one.name}: {one.base} / {one.new}" for one in differences)
        raise IncomparableError(
            f"{names[0]} and {names[1]} are not comparable: {listed}",
            hint=f"{_both_shown(*names)}; --force compares them all the same",
        )
    curves = has_scaling(base.measurements) or has_scaling(new.measurements)
    old_rows, new_rows = rows_by_key(base, names[0], curves), rows_by_key(new, names[1], curves)
    matches = [(key, key) for key in old_rows if key in new_rows]
    if force:
        matches += _unlike_blocks(
            [key for key in old_rows if key not in new_rows], set(new_rows) - set(old_rows)
        )
    if not matches:
        raise IncomparableError(
            f"{names[0]} and {names[1]} have no measurement in common", hint=_both_shown(*names)
        )
    matched_old, matched_new = ({pair[side] for pair in matches} for side in (0, 1))
    return Match(
        base,
        new,
        names,
        differences,
        sides=[(old_rows[old], new_rows[key]) for old, key in matches],
        only_in_base=[row for key, row in old_rows.items() if key not in matched_old],
        only_in_new=[row for key, row in new_rows.items() if key not in matched_new],
    )


def judged(matches: Sequence[Match], fail_over: float) -> list[Comparison]:
    """A comparison for each match. p-values are adjusted for the pairs of all of them together."""
    every = [pair for one in matches for pair in one.sides]
    pairs = iter(judge_pairs(every, fail_over))
    tested = sum(p_value(*pair) is not None for pair in every)
    return [
        Comparison(
            base_name=one_line(one.names[0]),
            new_name=one_line(one.names[1]),
            fail_over=fail_over,
            differences=one.differences,
            remarks=_remarks(one.base, one.new, fail_over) + _too_few(one.sides, tested),
            pairs=list(islice(pairs, len(one.sides))),
            only_in_base=one.only_in_base,
            only_in_new=one.only_in_new,
        )
        for one in matches
    ]


def _both_shown(base_name: str, new_name: str) -> str:
    return f"flashbench report {shlex.quote(base_name)} {shlex.quote(new_name)} shows them side by side"


def _unlike_blocks(old: Iterable[AnyKey], new: Iterable[AnyKey]) -> list[tuple[AnyKey, AnyKey]]:
    """Pairs that differ only in their block size, if only one pairing is possible."""
    old_alike, new_alike = _without_blocks(old), _without_blocks(new)
    return [
        (keys[0], new_alike[alike][0])
        for alike, keys in old_alike.items()
        if len(keys) == 1 and len(new_alike.get(alike, ())) == 1
    ]


def _without_blocks(keys: Iterable[AnyKey]) -> dict[Key, list[Key]]:
    return grouped((key for key in keys if isinstance(key, Key)), lambda key: key._replace(blocks=None))


def _differences(base: Results, new: Results) -> list[Difference]:
    """Differences that make times incomparable. Host names, dates and library versions do not."""
    old, late = comparable_settings(base), comparable_settings(new)
    pairs: list[tuple[str, str, str]] = [(name, old[name], late[name]) for name in old]
    if "documented" in (base.kind, new.kind):
        pairs.insert(0, ("kind", base.kind, new.kind))
    pairs += _of_models(base, new)
    return [Difference(name=name, base=one, new=other) for name, one, other in pairs if one != other]


def _of_models(base: Results, new: Results) -> Iterator[tuple[str, str, str]]:
    """Models that are others of the same name."""
    sizes = [_parameters(side) for side in (base, new)]
    for model in sorted(sizes[0].keys() & sizes[1].keys()):
        yield f"parameters of {model}", str(sizes[0][model]), str(sizes[1][model])


def _parameters(results: Results) -> dict[str, int]:
    return {row.model: row.parameters for row in model_rows(results) if row.parameters is not None}


def _remarks(base: Results, new: Results, fail_over: float) -> list[str]:
    remarks = ["both files hold the same results: nothing was measured between them"] if base == new else []
    floors = [results.machine.noise_floor for results in (base, new)]
    floor = max((one for one in floors if one is not None), default=0.0)
    if floor > fail_over:
        remarks.append(
            f"the noise floor of this machine was {100 * floor:.1f}% (duel --aa): a change of "
            f"{100 * fail_over:g}% cannot be told here, whatever the verdicts say"
        )
    for name, peak in base.machine.peak_gflops.items():
        later = new.machine.peak_gflops.get(name)
        # The peak loop runs no code of an engine: if the peak changes, the machine's speed did.
        if later is not None and peak > 0 and abs(later / peak - 1) > fail_over / 2:
            remarks.append(
                f"the machine itself ran at another speed: FMA peak {peak:.0f} / {later:.0f} GFLOP/s {name}"
            )
    libraries = (base.machine.libraries, new.machine.libraries)
    for library in sorted(set(libraries[0]) & set(libraries[1])):
        if libraries[0][library] != libraries[1][library]:
            remarks.append(f"{library} {libraries[0][library]} / {libraries[1][library]}")
    return remarks


def _too_few(sides: Sequence[tuple[AnyRow, AnyRow]], tested: int) -> list[str]:
    """Advice if there are too few processes to decide. tested: p-values that are adjusted together."""
    open_to_chance = [(base, new) for base, new in sides if base != new and p_value(base, new) is not None]
    counts = [processes_of(row) for side in open_to_chance for row in side]
    needed = least_processes(tested) if tested else 0
    if not counts or min(counts) >= needed:
        return []
    return [
        f"{counted(min(counts), 'process')} a side cannot exclude chance for "
        f"{counted(tested, 'measurement')}: measure both with --rounds {needed} or more, or use duel"
    ]
