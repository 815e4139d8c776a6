"""Times of hosts against their peers': which hosts are slower, in all rows together and in single rows.

A row has one figure for each process of a host: the logarithm of its median. Less the median over hosts it
says how much slower than its peers the host is there. The pseudo-median of that over a host's rows is one
value a round, of all rows together. A process that was disturbed in one of many rows does not move it. Nor
would slowness in few rows: so each row is judged by itself too.

One value a round is the unit of the test, because calls of one process share its layout, cores and clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from flashbench.analysis.row_keys import AnyKey
from flashbench.analysis.verdict import ALPHA, judge
from flashbench.measure.statistics import (
    Interval,
    against_the_middle,
    holm,
    mann_whitney_p,
    process_medians,
    pseudo_median,
    smallest_mann_whitney_p,
)
from flashbench.results.record import AnyRow, Verdict

# failed: something is wrong here that is right on a peer.
HostVerdict = Literal["slower", "failed", "cannot be told", "faster", "same"]
# An interval that is wide, or too few rounds.
UNDECIDED: HostVerdict = "cannot be told"
TOO_FEW = "too few rounds to exclude chance"
_WORDS: Mapping[Verdict, HostVerdict] = {"regressed": "slower", "improved": "faster", "same": "same"}

Values = dict[str, list[float]]  # of each host one a round, in the order of the rounds


class HostTime(msgspec.Struct, frozen=True, kw_only=True):
    """A host's time over that of the middle host."""

    ratio: float
    low: float | None  # 95 % interval by bootstrap over rounds; None with one round
    high: float | None
    p_value: float  # Mann-Whitney, of this host's rounds and all of its peers'
    p_holm: float  # the same, adjusted
    rounds: int
    verdict: HostVerdict
    reason: str | None = None  # why it cannot be told


class Family(NamedTuple):
    """Comparisons whose p-values are adjusted together, and the chance of error that they share.

    Comparisons of which it is known beforehand that they find nothing count in `tested`, and are left out of
    the groups.
    """

    groups: list[Values]
    alpha: float
    tested: int  # hosts of all comparisons

    def smallest_p(self, hosts: int, rounds: int) -> float:
        """The adjusted p-value of a host whose rounds are all above its peers'. hosts: it and its peers."""
        return min(1.0, self.tested * smallest_mann_whitney_p(rounds * (hosts - 1), rounds))

    def least_rounds(self, hosts: int) -> int:
        """The fewest rounds of each of so many hosts with which the test can exclude chance."""
        rounds = 1
        while self.smallest_p(hosts, rounds) > self.alpha:
            rounds += 1
        return rounds


def _log_medians(row: AnyRow) -> list[float]:
    """The logarithm of each process's median; nothing without a right result."""
    if row.status != "ok" or row.time is None:
        return []
    medians = process_medians(row.time.samples_ns)
    return [math.log(each) for each in medians] if all(each > 0 for each in medians) else []


def row_values(rows: Mapping[str, Mapping[AnyKey, AnyRow]]) -> dict[AnyKey, Values]:
    """Of each row that two hosts or more have: their values, which are 0 in the middle. rows: by host."""
    found: dict[AnyKey, Values] = {}
    for host, own in rows.items():
        for key, row in own.items():
            if logs := _log_medians(row):
                found.setdefault(key, {})[host] = logs
    return {key: _centred(values) for key, values in found.items() if len(values) > 1}


def _combined(by_row: Mapping[AnyKey, Values]) -> Values:
    """Of each host the pseudo-median over its rows, round by round, as long as each has a process."""
    rows: dict[str, list[list[float]]] = {}
    for values in by_row.values():
        for host, own in values.items():
            rows.setdefault(host, []).append(own)
    return {
        host: [float(one) for one in pseudo_median(np.array(list(zip(*own, strict=False))))]
        for host, own in rows.items()
    }


class HostTimes(NamedTuple):
    """The verdicts on all hosts."""

    together: Family  # all rows of a host
    single: Family  # each row
    of_hosts: dict[str, HostTime]  # of all rows together
    slower_rows: dict[str, dict[AnyKey, HostTime]]  # of each host, the slowest first


def judge_times(groups: Sequence[Mapping[AnyKey, Values]], fail_over: float) -> HostTimes:
    """Judge each host of each group of peers. groups: `row_values` of the peers' rows."""
    several = [(key, values) for group in groups if len(group) > 1 for key, values in group.items()]
    alpha = ALPHA / 2 if several else ALPHA  # both families share it
    sums = [_combined(group) for group in groups if group]
    together = Family(sums, alpha, sum(map(len, sums)))
    apart = [(key, values) for key, values in several if _may_differ(values, fail_over)]
    single = Family([values for _, values in apart], alpha, sum(len(values) for _, values in several))
    slower: dict[str, dict[AnyKey, HostTime]] = {}
    for (key, _), judged in zip(apart, _judge_family(single, fail_over), strict=True):
        for host, time in judged.items():
            if time.verdict == "slower":
                slower.setdefault(host, {})[key] = time
    return HostTimes(
        together,
        single,
        {host: time for judged in _judge_family(together, fail_over) for host, time in judged.items()},
        {host: dict(sorted(own.items(), key=lambda row: -row[1].ratio)) for host, own in slower.items()},
    )


def _judge_family(family: Family, fail_over: float) -> list[dict[str, HostTime]]:
    """For each group the verdict on each of its hosts."""
    raw = [_p_values(group) for group in family.groups]
    tested = [p for each in raw for p in each]
    adjusted = iter(holm(tested + [1.0] * (family.tested - len(tested))))
    return [
        {
            host: _judge(group, host, interval, p, next(adjusted), family, fail_over)
            for host, interval, p in zip(group, against_the_middle(list(group.values())), ps, strict=True)
        }
        for group, ps in zip(family.groups, raw, strict=True)
    ]


def _may_differ(values: Values, fail_over: float) -> bool:
    """Whether any host's median is so far above the middle, which is 0, that it may be slower."""
    medians = [median(own) for own in values.values()]
    middle = min(medians) if len(medians) == 2 else 0.0
    return max(medians) - middle > math.log1p(fail_over)


def _centred(values: Values) -> Values:
    middle = median(median(own) for own in values.values())
    return {host: [value - middle for value in own] for host, own in values.items()}


def _p_values(group: Values) -> list[float]:
    return [
        mann_whitney_p([value for other in group if other != host for value in group[other]], own)
        for host, own in group.items()
    ]


def _judge(
    group: Values,
    host: str,
    interval: Interval,
    p: float,
    p_holm: float,
    family: Family,
    fail_over: float,
) -> HostTime:
    rounds = len(group[host])
    others = sum(map(len, group.values())) - rounds
    verdict: HostVerdict = UNDECIDED
    reason = None
    if family.tested * smallest_mann_whitney_p(others, rounds) > family.alpha:
        reason = TOO_FEW
    else:
        verdict = _WORDS.get(judge(interval, p_holm, fail_over, family.alpha), UNDECIDED)
        if verdict == UNDECIDED:
            beyond = interval.low > 1 + fail_over or interval.high < 1 / (1 + fail_over)
            reason = (
                "chance is not excluded: more rounds can tell"
                if beyond
                else "its interval crosses the threshold"
            )
    return HostTime(
        ratio=interval.ratio,
        low=interval.low if rounds > 1 else None,
        high=interval.high if rounds > 1 else None,
        p_value=p,
        p_holm=p_holm,
        rounds=rounds,
        verdict=verdict,
        reason=reason,
    )
