"""Results as GitHub renders them: the tables of the terminal as pipe tables."""

from __future__ import annotations

import msgspec

from flashbench.report.duel import duel_markdown
from flashbench.report.escapes import escape_markdown
from flashbench.report.layout import heading
from flashbench.report.profile import NO_POINT, profile_sections
from flashbench.report.train import train_markdown
from flashbench.results.record import Results


def results_markdown(results: Results) -> str:
    """Every measurement, a duel's in its table of verdicts, all others as `profile` shows them; or training
    steps as `train` does; warnings.
    """
    *title, machine = (str(part) for part in heading(results))
    blocks = [f"### {escape_markdown(line)}" for line in title]
    blocks.append("\\\n".join(escape_markdown(line) for line in machine.splitlines()))
    if results.kind == "train":
        blocks.append(train_markdown(results))
    if results.duels:
        blocks.append(duel_markdown(results).rstrip())
    paired = {place for duel in results.duels for place in (duel.a, duel.b)}
    others = [row for place, row in enumerate(results.measurements) if place not in paired]
    for section in profile_sections(msgspec.structs.replace(results, measurements=others)):
        blocks += [f"**{escape_markdown(str(section.title))}**", section.grid.markdown()]
        if section.reasons:
            blocks.append("\n".join(f"- {escape_markdown(str(line))}" for line in section.reasons))
    if not results.measurements and results.kind != "train":
        blocks.append(NO_POINT)
    blocks.append("\n".join(f"- warning: {escape_markdown(line)}" for line in results.warnings))
    return "\n\n".join(filter(None, blocks)) + "\n"
