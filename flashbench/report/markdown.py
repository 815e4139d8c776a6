"""Results as GitHub renders them: the tables of the terminal as pipe tables."""

from __future__ import annotations

import msgspec

from flashbench.report.across_hosts import across_markdown
from flashbench.report.duel import duel_markdown
from flashbench.report.escapes import escape_markdown
from flashbench.report.hosts import across_of, host_line
from flashbench.report.infer import infer_markdown
from flashbench.report.layout import NO_POINT, machine_lines, study_title
from flashbench.report.profile import profile_sections
from flashbench.report.train import train_markdown
from flashbench.results.hosts import each_host
from flashbench.results.record import Results


def results_markdown(results: Results) -> str:
    """Every measurement and every warning.

    Duels are in a table of verdicts, other measurements in the tables of `profile`, training steps in those
    of `train`. Each host has tables of its own; below them are the verdicts on hosts that measured the same.
    """
    if not results.hosts:
        return _of_host(results)
    blocks = []
    for each in each_host(results):
        blocks += [f"## {escape_markdown(str(host_line(each)))}", _of_host(each).rstrip()]
    across = across_of(results)
    blocks += ["## Hosts against their peers", across_markdown(across).rstrip()] if across else []
    blocks.append(_warnings(results))
    return "\n\n".join(filter(None, blocks)) + "\n"


def _of_host(results: Results) -> str:
    title = study_title(results)
    blocks = [f"### {escape_markdown(title)}"] if title else []
    blocks.append("\\\n".join(map(escape_markdown, machine_lines(results))))
    if results.kind == "train":
        blocks.append(train_markdown(results))
    if results.kind == "infer":
        blocks.append(infer_markdown(results))
    if results.duels:
        blocks.append(duel_markdown(results).rstrip())
    paired = {place for duel in results.duels for place in (duel.a, duel.b)}
    others = [row for place, row in enumerate(results.measurements) if place not in paired]
    for section in profile_sections(msgspec.structs.replace(results, measurements=others)):
        blocks += [f"**{escape_markdown(section.title)}**", *section.markdown()]
    if not results.rows and results.kind not in ("train", "infer"):
        blocks.append(NO_POINT)
    blocks.append(_warnings(results))
    return "\n\n".join(filter(None, blocks)) + "\n"


def _warnings(results: Results) -> str:
    return "\n".join(f"- warning: {escape_markdown(line)}" for line in results.warnings)
