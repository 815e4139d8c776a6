"""The results of `verify`: a table of worst errors beside their tolerances, and a line for each failure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.groups import grouped
from flashbench.analysis.words import counted
from flashbench.report.grid import Grid
from flashbench.report.tones import NOTHING, Cell, Line, Tone
from flashbench.report.units import format_error
from flashbench.studies.audit import Finding
from flashbench.studies.question import GRADIENTS
from flashbench.studies.verify import CaseResult, Deviation, Verdict, Verification
from flashbench.texts import indented_json
from flashbench.tolerances import Output

FORWARD: tuple[Output, ...] = ("o", "lse")
# Failures of one engine that are listed; more of them rarely say anything new.
FAILURES_SHOWN = 5

_ERROR, _TOLERANCE, _VERDICT = "error", "Tole-\nrance", "Verdict"
# Of float16 and bfloat16: the largest ratio of an error to that of a naive computation in the dtype.
_NAIVE = "Naive\nratio"
# The worst first.
_TONES: Mapping[Verdict, Tone] = {
    "wrong": Tone.BAD,
    "raised": Tone.BAD,
    "unsupported": Tone.DOUBTFUL,
    "forward ok": Tone.GOOD,
    "ok": Tone.GOOD,
}


def verify_report(verification: Verification, *, verbose: bool = False) -> RenderableType:
    """The suite, and a table for each engine with a row for each group of cases and dtype.

    verbose: a row for each case.
    """
    count = len({result.case for result in verification.results})
    minutes, seconds = divmod(round(verification.seconds), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    parts: list[RenderableType] = [
        Text(f"{counted(count, 'case')} of suite {verification.suite}, {took}"),
        Text(),
    ]
    for engine, results in grouped(verification.results, lambda result: result.engine).items():
        parts += [Line(engine, Tone.STRONG), _cases(results) if verbose else _groups(results), Text()]
    return Group(*parts)


def _cases(results: Sequence[CaseResult]) -> Grid:
    naive = _has_naive(results)
    headers = _headers(naive)
    grid = Grid("Case", *headers, left=(0, len(headers)), whole=True)
    for result in results:
        grid.add_row(result.case, *_cells([result], naive))
    return grid


def _groups(results: Sequence[CaseResult]) -> Grid:
    naive = _has_naive(results)
    headers = _headers(naive)
    grid = Grid("Cases", "Dtype", "Count", *headers, left=(0, 1, len(headers) + 2), whole=True)
    for group, of_group in grouped(results, lambda result: result.group).items():
        name = group
        for dtype, rows in grouped(of_group, lambda result: result.problem.dtype).items():
            grid.add_row(name, dtype, str(len(rows)), *_cells(rows, naive))
            name = ""
    return grid


def _has_naive(results: Sequence[CaseResult]) -> bool:
    return bool(_ratios(results, (*FORWARD, *GRADIENTS)))


def _headers(naive: bool) -> tuple[str, ...]:
    ratio = (_NAIVE,) if naive else ()
    forward, gradient = ((f"{word}\n{_ERROR}", _TOLERANCE, *ratio) for word in ("Forward", "Gradient"))
    return *forward, *gradient, _VERDICT


def _cells(rows: Sequence[CaseResult], naive: bool) -> tuple[Cell, ...]:
    """naive: with the ratios to naive errors."""
    cells: list[Cell] = []
    for outputs in (FORWARD, GRADIENTS):
        cells += _worst(rows, outputs)
        if naive:
            ratios = _ratios(rows, outputs)
            cells.append(Cell(f"{max(ratios):.2f}", Tone.QUIET) if ratios else NOTHING)
    # Columns for naive errors leave little room at 80: lines below the table say what is unsupported.
    return *cells, _verdict(rows, short=naive)


def _ratios(results: Sequence[CaseResult], outputs: Sequence[Output]) -> list[float]:
    found = (
        result.outputs[name].naive_ratio for result in results for name in outputs if name in result.outputs
    )
    return [ratio for ratio in found if ratio is not None]


def verify_lines(verification: Verification, *, verbose: bool = False) -> list[str]:
    """Failures, each with the command that repeats it; what is unsupported, and why; counts.

    Plain lines, because a command must not be broken at the width of a terminal.
    """
    lines: list[str] = []
    for engine, results in grouped(verification.results, lambda result: result.engine).items():
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
        for alike in grouped(refused, _kind_of_reason).values():
            more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
            lines.append(f"unsupported by {engine}: {alike[0].case}{more}: {_reason(alike)}")
        lines.append(f"{engine}: {', '.join(_counts(results))} of {counted(len(results), 'case')}")
    return lines


def verify_json(verification: Verification, findings: Sequence[Finding] = ()) -> str:
    """Every result with every error, the findings, and the exit code."""
    document = msgspec.to_builtins(verification) | {
        "findings": msgspec.to_builtins(list(findings)),
        "exit_code": verification.exit_code,
    }
    return indented_json(document).decode()


def _kind_of_reason(result: CaseResult) -> str:
    """Reasons are of one kind if they differ only in numbers, or if they name features.

    A reason is any text, also of a plug-in: there is no value to compare instead.
    """
    return "features" if result.lacks else re.sub(r"\d+", "N", result.reason or "")


def _reason(alike: Sequence[CaseResult]) -> str:
    """The reason of the first, or all features that the engine lacks in any of the cases."""
    lacks = sorted({feature for result in alike for feature in result.lacks})
    return f"the engine has no {', '.join(lacks)}" if lacks else alike[0].reason or ""


def _worst(results: Sequence[CaseResult], outputs: Sequence[Output]) -> tuple[Cell, Cell]:
    """The error that is the largest share of its tolerance, and that tolerance."""
    deviations = [result.outputs[name] for result in results for name in outputs if name in result.outputs]
    if not deviations:
        return NOTHING, NOTHING
    worst: Deviation = max(deviations, key=lambda deviation: deviation.share)
    error = Cell(format_error(worst.error), Tone.BAD if worst.share > 1 else Tone.PLAIN)
    return error, Cell(format_error(worst.tolerance), Tone.QUIET)


def _verdict(results: Sequence[CaseResult], *, short: bool) -> Cell:
    found = {result.verdict for result in results}
    worst, *others = (verdict for verdict in _TONES if verdict in found)
    words = ",\n".join(_counts(results)) if others else worst
    if short:
        words = words.replace("unsupported", "n/a")
    return Cell(words, _TONES[worst])


def _counts(results: Sequence[CaseResult]) -> list[str]:
    """`["3 wrong", "1 ok"]`: the worst first."""
    counts = Counter(result.verdict for result in results)
    return [f"{counts[verdict]} {verdict}" for verdict in _TONES if counts[verdict]]
