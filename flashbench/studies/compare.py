"""Two results files against each other: what matches, by how much it changed, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from flashbench.errors import ResultsError
from flashbench.problem import AttentionProblem, Direction
from flashbench.results.record import Measurement, Results, Verdict
from flashbench.studies.blocks import block_label
from flashbench.studies.ratios import memory_ratio, time_ratio
from flashbench.studies.verdict import judge_interval, ratio_interval

# memray counts whole allocations, but the interpreter's own come and go by about a page.
MEMORY_NOISE_BYTES = 4096


class IncomparableError(ResultsError):
    """The files are of unlike machines or settings, or have nothing in common."""

    exit_code = 3


class Key(NamedTuple):
    """What identifies a measurement within a file. Blocks are those asked for: `auto` may choose others."""

    problem: AttentionProblem
    engine: str
    direction: Direction
    blocks: str


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement in both files."""

    base: Measurement
    new: Measurement
    time_ratio: float | None  # new over base, of the medians; None: not both have one
    time_low: float | None  # its interval, see studies.verdict; None: too few bursts
    time_high: float | None
    memory_ratio: float | None
    verdict: Verdict
    note: str | None = None  # why, where the figures do not show it


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A setting or a property of the machine in which the files differ."""

    name: str
    base: str
    new: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All that `flashbench compare` has to say; `--format json` is this."""

    schema_version: int = 1
    base_name: str
    new_name: str
    fail_over: float
    differences: list[Difference]  # why the files are not comparable, when that was overruled
    remarks: list[str]  # what else a reader should know
    pairs: list[Pair]
    only_in_base: list[Measurement]
    only_in_new: list[Measurement]

    @property
    def exit_code(self) -> int:
        """1: something regressed; 3: nothing did, but something is inconclusive; 0: all same or improved."""
        verdicts = {pair.verdict for pair in self.pairs}
        return 1 if "regressed" in verdicts else 3 if "inconclusive" in verdicts else 0


def compare(
    base: Results,
    new: Results,
    *,
    base_name: str = "base",
    new_name: str = "new",
    fail_over: float = 0.05,
    force: bool = False,
) -> Comparison:
    """Match the measurements of two files and judge each pair.

    A pair has regressed when its whole interval lies above 1 + fail_over, or its memory does, or when
    base was ok and new is not; it has improved when the whole interval lies below 1 / (1 + fail_over);
    it is the same when the interval ends below 1 + fail_over; anything else is inconclusive.

    Raises IncomparableError when machines or settings differ, unless `force`, and when no measurement is
    in both. With `force` also measurements that differ in their block size alone are matched.
    """
    differences = _differences(base, new)
    if differences and not force:
        listed = "; ".join(f"{one.name}: {one.base} / {one.new}" for one in differences)
        raise IncomparableError(
            f"{base_name} and {new_name} are not comparable: {listed}",
            hint="--force compares them all the same",
        )
    old_rows, new_rows = _by_key(base, base_name), _by_key(new, new_name)
    matches = [(key, key) for key in old_rows if key in new_rows]
    if force:
        matches += _unlike_blocks(
            [key for key in old_rows if key not in new_rows], set(new_rows) - set(old_rows)
        )
    if not matches:
        raise IncomparableError(f"{base_name} and {new_name} have no measurement in common")
    matched_old, matched_new = ({match[side] for match in matches} for side in (0, 1))
    return Comparison(
        base_name=base_name,
        new_name=new_name,
        fail_over=fail_over,
        differences=differences,
        remarks=_remarks(base, new, fail_over),
        pairs=[_judge(old_rows[old], new_rows[key], fail_over) for old, key in matches],
        only_in_base=[row for key, row in old_rows.items() if key not in matched_old],
        only_in_new=[row for key, row in new_rows.items() if key not in matched_new],
    )


def _by_key(results: Results, name: str) -> dict[Key, Measurement]:
    rows: dict[Key, Measurement] = {}
    for row in results.measurements:
        key = Key(row.problem, row.engine, row.direction, block_label(row))
        if key in rows:
            raise ResultsError(
                f"{name} holds {row.engine} at {row.problem.seqlen_q} twice, alike in every setting"
            )
        rows[key] = row
    return rows


def _unlike_blocks(old: Iterable[Key], new: Iterable[Key]) -> list[tuple[Key, Key]]:
    """Pairs that are alike but for the block size, where there is no choice of whom to pair."""
    old_alike, new_alike = _without_blocks(old), _without_blocks(new)
    return [
        (keys[0], new_alike[alike][0])
        for alike, keys in old_alike.items()
        if len(keys) == 1 and len(new_alike.get(alike, ())) == 1
    ]


def _without_blocks(keys: Iterable[Key]) -> dict[Key, list[Key]]:
    alike: dict[Key, list[Key]] = {}
    for key in keys:
        alike.setdefault(key._replace(blocks=""), []).append(key)
    return alike


def _differences(base: Results, new: Results) -> list[Difference]:
    """What makes times not comparable. Host names, dates and versions of libraries do not."""
    pairs: list[tuple[str, object, object]] = [
        ("kind", base.kind, new.kind) if "documented" in (base.kind, new.kind) else ("kind", None, None),
        ("cpu", base.machine.cpu, new.machine.cpu),
        ("isa", base.machine.isa, new.machine.isa),
        ("cores", base.machine.cores, new.machine.cores),
        ("governor", base.machine.governor, new.machine.governor),
        ("threads", _threads(base), _threads(new)),
    ]
    return [
        Difference(name=name, base=_word(old), new=_word(late)) for name, old, late in pairs if old != late
    ]


def _threads(results: Results) -> str | None:
    counts = sorted({row.threads for row in results.measurements if row.threads is not None})
    return ", ".join(map(str, counts)) or None


def _word(value: object) -> str:
    return "not stated" if value is None else str(value)


def _remarks(base: Results, new: Results, fail_over: float) -> list[str]:
    remarks = []
    for dtype, peak in base.machine.peak_gflops.items():
        later = new.machine.peak_gflops.get(dtype)
        # The peak loop runs no code of an engine: when it changes, the machine's speed did.
        if later is not None and peak > 0 and abs(later / peak - 1) > fail_over / 2:
            remarks.append(
                f"the machine itself ran at another speed: FMA peak {peak:.0f} / {later:.0f} GFLOP/s {dtype}"
            )
    libraries = (base.machine.libraries, new.machine.libraries)
    for library in sorted(set(libraries[0]) & set(libraries[1])):
        if libraries[0][library] != libraries[1][library]:
            remarks.append(f"{library} {libraries[0][library]} / {libraries[1][library]}")
    return remarks


def _judge(base: Measurement, new: Measurement, fail_over: float) -> Pair:
    verdict, note = _status_verdict(base, new)
    interval = None
    if verdict is None:
        interval = ratio_interval(base.time, new.time) if base.time and new.time else None
        memory = _memory_verdict(base, new, fail_over)
        if interval is not None:
            verdict = judge_interval(interval, fail_over)
        elif base.time and new.time:
            verdict, note = (
                "inconclusive",
                "no samples" if _is_single(base) or _is_single(new) else "too few bursts",
            )
        else:
            verdict = memory or "inconclusive"
            note = "time not measured" if verdict == "inconclusive" else None
        if memory == "regressed" and verdict != "regressed":
            verdict, note = "regressed", "more memory"
    return Pair(
        base=base,
        new=new,
        time_ratio=time_ratio(new, base),
        time_low=interval and interval.low,
        time_high=interval and interval.high,
        memory_ratio=memory_ratio(new, base),
        verdict=verdict,
        note=note,
    )


def _status_verdict(base: Measurement, new: Measurement) -> tuple[Verdict | None, str | None]:
    """The verdict where a side is not ok; (None, None) where both are, and the figures decide."""
    if base.status == new.status:
        return (None, None) if base.status == "ok" else ("same", f"{base.status} in both")
    if new.status == "ok":
        return "improved", f"was {base.status}"
    if base.status == "ok":
        return "regressed", f"now {new.status}"
    return "inconclusive", f"{base.status}, now {new.status}"


def _memory_verdict(base: Measurement, new: Measurement, fail_over: float) -> Verdict | None:
    if base.memory is None or new.memory is None:
        return None
    old, late = base.memory.workspace_peak_bytes, new.memory.workspace_peak_bytes
    if abs(late - old) <= MEMORY_NOISE_BYTES:
        return "same"
    if late > old * (1 + fail_over):
        return "regressed"
    return "improved" if late < old / (1 + fail_over) else "same"


def _is_single(row: Measurement) -> bool:
    """Whether the time is a single figure from elsewhere rather than a sample."""
    return row.time is not None and sum(map(len, row.time.samples_ns)) <= 1
