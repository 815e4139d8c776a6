"""`flashbench compare --across hosts`: each host against its peers of the same CPU model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from flashbench.analysis.compare import IncomparableError
from flashbench.analysis.host_limits import HostLimit, judge_limits
from flashbench.analysis.host_rows import disturbed_words, failed_rows, memory_ratios
from flashbench.analysis.host_times import (
    TOO_FEW,
    UNDECIDED,
    HostTime,
    HostTimes,
    HostVerdict,
    Values,
    judge_times,
    row_values,
)
from flashbench.analysis.peers import Host, hosts_of, peer_groups, unlike_machines, unlike_settings
from flashbench.analysis.row_keys import AnyKey, rows_by_key
from flashbench.analysis.row_words import place_word, row_title
from flashbench.analysis.scaling import has_scaling
from flashbench.analysis.verdict import ALPHA, FAILED
from flashbench.analysis.words import counted
from flashbench.results.one_line import one_line
from flashbench.results.record import AnyRow, Results


class RowFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A row in which a host stands out."""

    title: str  # what ran, on what
    place: str  # along its table, such as its length
    time: HostTime | None = None  # of a row that is slower
    memory_ratio: float | None = None  # of a row that takes more memory
    failure: str | None = None  # of a row that is right on a peer


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A host and the verdict on it."""

    host: str
    file: str
    cpu: str
    group: int  # hosts of one group are peers
    peers: int
    rows: int  # with a right result and a time, here and on a peer
    time: HostTime | None  # of these rows together; None without any
    memory_ratio: float | None  # bytes of all rows over those of the middle host
    limits: list[HostLimit]
    findings: list[RowFinding]
    verdict: HostVerdict
    reasons: list[str]  # what the figures do not show


class AcrossHosts(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `flashbench compare --across hosts`; `--format json` prints it."""

    schema_version: int = 1
    files: list[str]
    fail_over: float
    nodes: list[Node]  # by group
    remarks: list[str]  # what else a reader should know

    @property
    def exit_code(self) -> int:
        """1: a host is slower. 4: none is, but one failed. 3: one cannot be told. 0: otherwise."""
        found = {node.verdict for node in self.nodes}
        codes: dict[HostVerdict, int] = {
            "slower": 1,
            "failed": FAILED,
            UNDECIDED: IncomparableError.exit_code,
        }
        return next((code for verdict, code in codes.items() if verdict in found), 0)


class _Peers(NamedTuple):
    """Hosts that are compared with each other."""

    number: int
    hosts: list[Host]
    rows: dict[str, dict[AnyKey, AnyRow]]  # of each host
    values: dict[AnyKey, Values]
    limits: Mapping[str, list[HostLimit]]


def across_hosts(
    files: Sequence[tuple[str, Results]], *, fail_over: float = 0.05, force: bool = False
) -> AcrossHosts:
    """Judge every host of the files, which are (name, results), against its peers.

    Peers have one CPU model and the same settings; with `force` whatever settings. A host's time is the
    pseudo-median over its rows, one value a round, over that of the middle host: of three hosts or more one
    that is slow does not move the middle. Chance is excluded by the Mann-Whitney test of a host's rounds and
    its peers', adjusted for the number of hosts (Holm). Single rows are tested too, adjusted for hosts and
    rows; both families share the 5 % evenly.

    - slower: the whole interval is above 1 + fail_over and chance is excluded, of all rows together or of one
      row; or memory is above it; or a limit of the machine is low (see `host_limits`)
    - failed: a row has no valid time here, and has one on a peer
    - cannot be told: no peer, too few rounds, or an interval that crosses the threshold
    - faster: the whole interval is below 1 / (1 + fail_over) and chance is excluded
    - same: anything else

    Raises ResultsError if a host is there twice; IncomparableError if there is one host alone, or if no two
    hosts have a row in common.
    """
    hosts = hosts_of(files)
    if len(hosts) < 2:
        raise IncomparableError(
            f"{files[0][0]} holds one host, {hosts[0].name}: there is no other to compare it with",
            hint="name the files of other hosts too",
        )
    curves = any(has_scaling(host.results.measurements) for host in hosts)
    rows = {host.name: rows_by_key(host.results, host.name, curves) for host in hosts}
    _check_common(rows)
    by_peers = peer_groups(hosts, force=force)
    alpha = ALPHA / len(by_peers)
    groups = [_peers(number, group, rows, fail_over, alpha) for number, group in enumerate(by_peers)]
    times = judge_times([group.values for group in groups], fail_over)
    unlike = unlike_settings(hosts)
    return AcrossHosts(
        files=[one_line(name) for name, _ in files],
        fail_over=fail_over,
        nodes=[
            _node(host, group, times, unlike.get(host.name), fail_over)
            for group in groups
            for host in group.hosts
        ],
        remarks=[*_remarks(groups, unlike), *_too_few(groups, times)],
    )


def _check_common(rows: Mapping[str, Mapping[AnyKey, AnyRow]]) -> None:
    counts = Counter(key for own in rows.values() for key in own)
    if counts and max(counts.values()) < 2:
        raise IncomparableError(
            f"no two of {counted(len(rows), 'host')} have a row in common: each measured other points",
            hint="measure the same study on every host; --each-node does",
        )


def _peers(
    number: int,
    hosts: list[Host],
    rows: Mapping[str, dict[AnyKey, AnyRow]],
    fail_over: float,
    alpha: float,
) -> _Peers:
    # Ordered by name: the bootstrap's bounds do not depend on the order of the files.
    own = {name: rows[name] for name in sorted(host.name for host in hosts)}
    limits = judge_limits({host.name: host.results.machine for host in hosts}, fail_over, alpha)
    return _Peers(number, hosts, own, row_values(own), limits)


def _node(host: Host, peers: _Peers, times: HostTimes, unlike: str | None, fail_over: float) -> Node:
    time = times.of_hosts.get(host.name)
    limits = peers.limits[host.name]
    memory, more = memory_ratios(peers.rows, host.name, fail_over)
    rows = peers.rows[host.name]
    findings = [
        *(_finding(rows[key], time=slow) for key, slow in times.slower_rows.get(host.name, {}).items()),
        *(_finding(rows[key], memory_ratio=ratio) for key, ratio in more.items()),
        *(_finding(rows[key], failure=why) for key, why in failed_rows(peers.rows, host.name).items()),
    ]
    verdict = _verdict(time, limits, findings)
    reasons = []
    if len(peers.hosts) == 1:
        reasons.append("no other host has its CPU" + (f" and its settings ({unlike})" if unlike else ""))
        verdict = UNDECIDED
    elif time is None and (rows or not limits):
        reasons.append("no row has a time here and on a peer")
        verdict = UNDECIDED if verdict == "same" else verdict
    if verdict == "slower" and (disturbed := disturbed_words(host.results.machine, rows)):
        reasons.append(f"{disturbed}: measure again when it is quiet")
    return Node(
        host=host.name,
        file=one_line(host.file),
        cpu=host.results.machine.cpu,
        group=peers.number,
        peers=len(peers.hosts) - 1,
        rows=sum(host.name in values for values in peers.values.values()),
        time=time,
        memory_ratio=memory,
        limits=limits,
        findings=findings,
        verdict=verdict,
        reasons=reasons,
    )


def _finding(
    row: AnyRow,
    *,
    time: HostTime | None = None,
    memory_ratio: float | None = None,
    failure: str | None = None,
) -> RowFinding:
    return RowFinding(
        title=row_title(row), place=place_word(row), time=time, memory_ratio=memory_ratio, failure=failure
    )


def _verdict(
    time: HostTime | None, limits: Sequence[HostLimit], findings: Sequence[RowFinding]
) -> HostVerdict:
    """The worst of what was found."""
    found: set[HostVerdict] = {limit.verdict for limit in limits} | ({time.verdict} if time else set())
    found |= {"failed" if finding.failure else "slower" for finding in findings}
    order: tuple[HostVerdict, ...] = ("slower", "failed", UNDECIDED, "faster")
    return next((verdict for verdict in order if verdict in found), "same")


def _remarks(groups: Sequence[_Peers], unlike: Mapping[str, str]) -> Iterator[str]:
    for group in groups:
        names = [host.name for host in group.hosts]
        for words in dict.fromkeys(unlike[name] for name in names if name in unlike):
            named = [name for name in names if unlike.get(name) == words]
            if len(names) > 1:
                alone = (
                    ": compared with each other alone" if len(named) == len(names) else ": peers by --force"
                )
                yield f"{', '.join(named)}: {words}{alone}"
        yield from unlike_machines(group.hosts)
        for host in group.hosts:
            if not host.results.complete:
                yield f"{host.name} is unfinished: it is judged by the rows that it has"


def _too_few(groups: Sequence[_Peers], times: HostTimes) -> Iterator[str]:
    """How many rounds it takes, if there are too few."""
    for group in groups:
        found = [times.of_hosts[host.name] for host in group.hosts if host.name in times.of_hosts]
        short = [time.rounds for time in found if time.reason == TOO_FEW]
        if short:
            needed = times.together.least_rounds(len(found))
            yield (
                f"{counted(min(short), 'round')} cannot exclude chance for "
                f"{counted(times.together.tested, 'host')}: p is at least "
                f"{times.together.smallest_p(len(found), min(short)):.2g}, and "
                f"{times.together.alpha:g} is asked for; measure with --rounds {needed} or more"
            )
        elif any(host.name in values for host in group.hosts for values in times.single.groups):
            needed, rounds = times.single.least_rounds(len(found)), min(time.rounds for time in found)
            if rounds < needed:
                yield (
                    f"{counted(rounds, 'round')} of {counted(len(found), 'peer')} cannot tell single rows, "
                    f"of which {times.single.tested} are tested: --rounds {needed} can"
                )
