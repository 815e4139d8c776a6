"""Two results files of several hosts against each other: each host with itself, and with no other."""

from __future__ import annotations

import msgspec

from flashbench.analysis.compare import Comparison, IncomparableError, Match, judged, match
from flashbench.results.hosts import each_host
from flashbench.results.one_line import one_line
from flashbench.results.record import Results


class HostComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `flashbench compare` for files of several hosts; `--format json` prints it."""

    schema_version: int = 1
    base_name: str
    new_name: str
    fail_over: float
    hosts: dict[str, Comparison]  # by the host's name
    incomparable: dict[str, str]  # why: other settings, or no row in common
    only_in_base: list[str]  # hosts
    only_in_new: list[str]

    @property
    def exit_code(self) -> int:
        """As of a `Comparison`, the worst of all hosts: 1 before 4, and 4 before 3.

        3 also if the files of a host are not comparable.
        """
        found = {comparison.exit_code for comparison in self.hosts.values()}
        found |= {IncomparableError.exit_code} if self.incomparable else set()
        return next((code for code in (1, 4, 3) if code in found), 0)


def compare_hosts(
    base: Results, new: Results, *, base_name: str, new_name: str, fail_over: float, force: bool
) -> HostComparison:
    """`compare` for each host that both files have. p-values are adjusted for the pairs of all hosts.

    Raises IncomparableError if the files have no host in common, or none whose results are comparable.
    """
    old, late = _by_name(base), _by_name(new)
    matches: dict[str, Match] = {}
    incomparable: dict[str, IncomparableError] = {}
    for host in old:
        if host in late:
            names = (f"{host} of {base_name}", f"{host} of {new_name}")
            try:
                matches[host] = match(old[host], late[host], names=names, force=force)
            except IncomparableError as error:
                incomparable[host] = error
    if incomparable and not matches:
        first = next(iter(incomparable.values()))
        raise IncomparableError(str(first), hint="--force compares them all the same")
    if not matches:
        raise IncomparableError(
            f"{base_name} and {new_name} have no host in common: {', '.join(old)} / {', '.join(late)}",
            hint="--across hosts compares hosts with each other",
        )
    return HostComparison(
        base_name=one_line(base_name),
        new_name=one_line(new_name),
        fail_over=fail_over,
        hosts=dict(zip(matches, judged(list(matches.values()), fail_over), strict=True)),
        incomparable={host: one_line(str(error)) for host, error in incomparable.items()},
        only_in_base=[host for host in old if host not in late],
        only_in_new=[host for host in late if host not in old],
    )


def _by_name(results: Results) -> dict[str, Results]:
    return {each.machine.host: each for each in each_host(results)}
