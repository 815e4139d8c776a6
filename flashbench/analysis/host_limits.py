"""The limits of hosts against their peers': read bandwidth and peak, of which a file has one figure a host.

One figure has no spread of its own, and of n equal hosts one is always the lowest. So the spread of the peers
stands in for it: a figure is low if it is below the threshold and an outlier among the figures of all peers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

import msgspec

from flashbench.analysis.host_times import UNDECIDED, HostVerdict
from flashbench.measure.statistics import low_outliers
from flashbench.results.record import Machine

LEAST_HOSTS = 4  # fewer have no outlier


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


def judge_limits(
    machines: Mapping[str, Machine], fail_over: float, alpha: float
) -> dict[str, list[HostLimit]]:
    """The limits of each host that a peer has too. machines: of peers, by host.

    alpha: the chance to find any of these limits low if all hosts are equal.
    """
    by_limit: dict[tuple[str, str], dict[str, float]] = {}
    for host, machine in machines.items():
        for limit, value in limits_of(machine).items():
            by_limit.setdefault(limit, {})[host] = value
    judged: dict[str, list[HostLimit]] = {host: [] for host in machines}
    for (name, unit), values in by_limit.items():
        hosts = list(values)
        low = low_outliers([math.log(values[host]) for host in hosts], alpha / len(by_limit))
        for place, host in enumerate(hosts):
            others = [values[other] for other in hosts if other != host]
            if others:
                # As for times: of two hosts the middle is the other one.
                ratio = values[host] / (others[0] if len(others) == 1 else median(values.values()))
                verdict, reason = _verdict(ratio, len(hosts), place in low, fail_over)
                judged[host].append(
                    HostLimit(
                        name=name,
                        value=values[host],
                        unit=unit,
                        ratio=ratio,
                        verdict=verdict,
                        reason=reason,
                    )
                )
    return judged


def _verdict(ratio: float, hosts: int, is_low: bool, fail_over: float) -> tuple[HostVerdict, str | None]:
    if ratio >= 1 / (1 + fail_over):
        return "same", None
    if is_low:
        return "slower", None
    if hosts < LEAST_HOSTS:
        return UNDECIDED, f"one figure a host, of fewer than {LEAST_HOSTS} hosts"
    return UNDECIDED, "one figure a host, and those of its peers differ too"
