"""The limits of hosts against their peers': read bandwidth and peak, of which a file has one figure a host.

One figure has no spread of its own, and with n hosts chance makes any of them the lowest in 1 of n cases: no
test can exclude that. So the spread of the peers stands in for it. A figure is low if it is below the
threshold and beyond Tukey's outer fence of the peers' figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

import msgspec

from flashbench.analysis.host_times import UNDECIDED, HostVerdict
from flashbench.measure.statistics import OUTER_FENCE, spread
from flashbench.results.record import Machine

# Fewer have no quartiles to speak of.
LEAST_PEERS = 3


class HostLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of a host over that of the middle host."""

    name: str
    value: float
    unit: str
    ratio: float  # below 1: lower than the middle host's
    verdict: HostVerdict
    reason: str | None = None  # why it cannot be told


def limits_of(machine: Machine) -> dict[tuple[str, str], float]:
    """By name and unit: the read bandwidth and the peak of each dtype and path, as far as measured."""
    found = {("peak " + name, "GFLOP/s"): gflops for name, gflops in machine.peak_gflops.items()}
    if machine.read_bandwidth_gbps is not None:
        found["read bandwidth", "GB/s"] = machine.read_bandwidth_gbps
    return {name: value for name, value in found.items() if value > 0}


def judge_limits(machines: Mapping[str, Machine], fail_over: float) -> dict[str, list[HostLimit]]:
    """The limits of each host that a peer has too. machines: of peers, by host."""
    by_limit: dict[tuple[str, str], dict[str, float]] = {}
    for host, machine in machines.items():
        for limit, value in limits_of(machine).items():
            by_limit.setdefault(limit, {})[host] = value
    judged: dict[str, list[HostLimit]] = {host: [] for host in machines}
    for (name, unit), values in by_limit.items():
        for host, value in values.items():
            others = [other for peer, other in values.items() if peer != host]
            if others:
                # As for times: of two hosts the middle is the other one.
                ratio = value / (others[0] if len(others) == 1 else median(values.values()))
                verdict, reason = _verdict(value, ratio, others, fail_over)
                judged[host].append(
                    HostLimit(name=name, value=value, unit=unit, ratio=ratio, verdict=verdict, reason=reason)
                )
    return judged


def _verdict(
    value: float, ratio: float, others: list[float], fail_over: float
) -> tuple[HostVerdict, str | None]:
    if ratio >= 1 / (1 + fail_over):
        return "same", None
    if len(others) < LEAST_PEERS:
        return UNDECIDED, f"one figure a host, of fewer than {LEAST_PEERS + 1} hosts"
    found = spread([math.log(other) for other in others])
    if math.log(value) < found.low - OUTER_FENCE * (found.high - found.low):
        return "slower", None
    return UNDECIDED, "one figure a host, and those of its peers differ too"
