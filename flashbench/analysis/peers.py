"""Hosts that can be compared with each other: of one CPU model, and with the same settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from flashbench.analysis.groups import grouped
from flashbench.analysis.settings import comparable_settings
from flashbench.analysis.sizes import with_unit
from flashbench.errors import ResultsError
from flashbench.results.hosts import each_host
from flashbench.results.record import Results

Value = TypeVar("Value", bound=Hashable)


class Host(NamedTuple):
    """What one host measured, and the file that holds it."""

    name: str
    file: str
    results: Results


def hosts_of(files: Iterable[tuple[str, Results]]) -> list[Host]:
    """Every host of the files, which are (name, results).

    Raises ResultsError if a host is there twice, and for figures of no host.
    """
    found: dict[str, Host] = {}
    for file, results in files:
        for each in each_host(results):
            name = each.machine.host
            if each.kind == "documented":
                raise ResultsError(f"{file} holds documented figures, which are of no host")
            if name in found:
                raise ResultsError(
                    f"host {name!r} is in {found[name].file} and again in {file}: each host is compared "
                    "once, and its results are never pooled",
                    hint="leave one of them out",
                )
            found[name] = Host(name, file, each)
    return list(found.values())


def peer_groups(hosts: Sequence[Host], *, force: bool) -> list[list[Host]]:
    """Hosts of one CPU model and the same settings. force: whatever their settings."""
    groups = grouped(
        hosts, lambda host: host.results.machine.cpu if force else tuple(_settings(host.results).items())
    )
    return list(groups.values())


def unlike_settings(hosts: Sequence[Host]) -> dict[str, str]:
    """By host: `governor: powersave, most have performance`, if most hosts of its CPU have other settings."""
    found: dict[str, str] = {}
    for alike in grouped(hosts, lambda host: host.results.machine.cpu).values():
        settings = {host.name: _settings(host.results) for host in alike}
        usual = dict(_most_common(tuple(each.items()) for each in settings.values()))
        for name, own in settings.items():
            words = [f"{key}: {own[key]}, most have {usual[key]}" for key in own if own[key] != usual[key]]
            if words:
                found[name] = "; ".join(words)
    return found


def unlike_machines(peers: Sequence[Host]) -> list[str]:
    """Library versions and memory in which peers differ: a line for each, with the hosts that are not as most
    are. They are peers all the same."""
    lines = []
    properties = [_properties(host.results) for host in peers]
    for name in sorted({name for each in properties for name in each}):
        words = [each.get(name) for each in properties]
        usual = _most_common(word for word in words if word is not None)
        others = grouped(
            (pair for pair in zip(peers, words, strict=True) if pair[1] not in (None, usual)),
            lambda pair: pair[1],
        )
        lines += [
            f"{', '.join(host.name for host, _ in pairs)}: {name} {word}, most have {usual}"
            for word, pairs in others.items()
        ]
    return lines


def _settings(results: Results) -> dict[str, str]:
    """What must be alike: the settings that `compare` asks for, and who measured what."""
    found = comparable_settings(results)
    if found["threads"] == "not stated":  # no row has run, or there is none
        found["threads"] = str(results.study.get("threads", "not stated"))
    return found | {"kind": results.kind, "flashbench": results.flashbench_version}


def _properties(results: Results) -> Mapping[str, str]:
    """What may differ."""
    memory = results.machine.memory_bytes
    # In whole units: firmware takes some MiB, more or fewer.
    size = {} if memory is None else {"memory": with_unit(memory, decimals=0)}
    return results.machine.libraries | size


def _most_common(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]
