"""What `verify` found: a table of worst errors beside their tolerances, and a line for each failure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.report.layout import NOTHING, Grid
from flashbench.report.units import format_error
from flashbench.studies.question import GRADIENTS
from flashbench.studies.verify import CaseResult, Deviation, Verdict, Verification
from flashbench.texts import to_json
from flashbench.tolerances import Output

FORWARD: tuple[Output, ...] = ("o", "lse")
# How many failures of an engine are told one by one; after so many alike, more say nothing new.
FAILURES_SHOWN = 5

_HEADERS = ("Forward\nerror", "Tole-\nrance", "Gradient\nerror", "Tole-\nrance", "Verdict")
_STYLES: dict[Verdict, str] = {
    "wrong": "bold red",
    "raised": "bold red",
    "unsupported": "yellow",
    "forward ok": "green",
    "ok": "green",
}


def verify_report(verification: Verification, *, verbose: bool = False) -> RenderableType:
    """Which suite, and a table per engine: a row per group of cases and dtype; verbose: a row per case."""
    count = len({result.case for result in verification.results})
    minutes, seconds = divmod(round(verification.seconds), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    parts: list[RenderableType] = [
        Text(f"{count} case{'' if count == 1 else 's'} of suite {verification.suite}, {took}"),
        Text(),
    ]
    for engine, results in _by(verification.results, lambda result: result.engine).items():
        parts += [Text(engine, style="bold"), _cases(results) if verbose else _groups(results), Text()]
    return Group(*parts)


def _cases(results: Sequence[CaseResult]) -> Grid:
    grid = Grid("Case", *_HEADERS, left=(0, len(_HEADERS)), whole=True)
    for result in results:
        grid.add_row(result.case, *_cells([result]))
    return grid


def _groups(results: Sequence[CaseResult]) -> Grid:
    grid = Grid("Cases", "Dtype", "Count", *_HEADERS, left=(0, 1, len(_HEADERS) + 2), whole=True)
    for group, of_group in _by(results, lambda result: result.group).items():
        name = group
        for dtype, rows in _by(of_group, lambda result: result.problem.dtype).items():
            grid.add_row(name, dtype, str(len(rows)), *_cells(rows))
            name = ""
    return grid


def _cells(rows: Sequence[CaseResult]) -> tuple[Text, ...]:
    return *_worst(rows, FORWARD), *_worst(rows, GRADIENTS), _verdict(rows)


def verify_lines(verification: Verification, *, verbose: bool = False) -> list[str]:
    """What failed, with the command that runs just that; what was not supported, and why; the count of all.

    Plain lines, because a command must not be broken at the width of a terminal.
    """
    lines: list[str] = []
    for engine, results in _by(verification.results, lambda result: result.engine).items():
        failed = [result for result in results if result.failed]
        shown = failed if verbose else failed[:FAILURES_SHOWN]
        for result in shown:
            lines += [
                f"FAILED {engine} {result.case}: {result.reason}",
                f"  {verification.reproduce(result)}",
            ]
        if len(failed) > len(shown):
            lines.append(f"FAILED {engine}: and {len(failed) - len(shown)} more; --verbose tells them all")
        refused = [result for result in results if result.verdict in ("unsupported", "forward ok")]
        for alike in _by(refused, _kind_of_reason).values():
            more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
            lines.append(f"unsupported by {engine}: {alike[0].case}{more}: {_reason(alike)}")
        count = f"{len(results)} case{'' if len(results) == 1 else 's'}"
        lines.append(f"{engine}: {_counted(results)} of {count}")
    return lines


def verify_json(verification: Verification) -> str:
    """Every result with every error, and the exit code."""
    document = msgspec.to_builtins(verification) | {"exit_code": verification.exit_code}
    return msgspec.json.format(to_json(document), indent=2).decode() + "\n"


def _by(results: Iterable[CaseResult], key: Callable[[CaseResult], str]) -> dict[str, list[CaseResult]]:
    groups: dict[str, list[CaseResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def _kind_of_reason(result: CaseResult) -> str:
    """Reasons that differ only in their numbers are one, and so are those that name features."""
    return "features" if result.lacks else re.sub(r"\d+", "N", result.reason or "")


def _reason(alike: Sequence[CaseResult]) -> str:
    """The first one's; all features of which any of the cases has one that the engine has not."""
    lacks = sorted({feature for result in alike for feature in result.lacks})
    return f"the engine has no {', '.join(lacks)}" if lacks else alike[0].reason or ""


def _worst(results: Sequence[CaseResult], outputs: Sequence[Output]) -> tuple[Text, Text]:
    """The error that is the largest share of its tolerance, and that tolerance."""
    deviations = [result.outputs[name] for result in results for name in outputs if name in result.outputs]
    if not deviations:
        return NOTHING, NOTHING
    worst: Deviation = max(deviations, key=lambda deviation: deviation.share)
    style = "bold red" if worst.share > 1 else ""
    return Text(format_error(worst.error), style=style), Text(format_error(worst.tolerance), style="dim")


def _verdict(results: Sequence[CaseResult]) -> Text:
    counts = Counter(result.verdict for result in results)
    verdicts = [verdict for verdict in _STYLES if counts[verdict]]
    words = verdicts[0] if len(verdicts) == 1 else _counted(results).replace(", ", ",\n")
    return Text(words, style=_STYLES[verdicts[0]])


def _counted(results: Sequence[CaseResult]) -> str:
    """`3 wrong, 1 ok`: the worst first."""
    counts = Counter(result.verdict for result in results)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in _STYLES if counts[verdict])
