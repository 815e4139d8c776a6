"""The documented table to the letter: banner, rules and column widths."""

from __future__ import annotations

from flashbench.analysis.group_words import problem_line
from flashbench.analysis.groups import group_measurements
from flashbench.analysis.problem_words import length_word
from flashbench.analysis.ratios import memory_ratio
from flashbench.analysis.words import STATUS_WORDS
from flashbench.errors import ConfigError
from flashbench.report.layout import reason_lines
from flashbench.report.profile import DOCUMENTED_ENGINES, by_problem
from flashbench.report.units import documented_bytes
from flashbench.results.record import Measurement, Results
from flashbench.studies.study import Study

_BANNER = "\N{BAR CHART} Flash Attention Memory Profiling"


def check_plain(study: Study) -> None:
    """Raise ConfigError unless the study has exactly standard and flash, one block size and one path."""
    if len(study.paths) > 1:
        raise ConfigError(f"--plain is the documented table of one path, not of {', '.join(study.paths)}")
    if len(study.thread_counts) > 1:
        counts = ", ".join(map(str, study.thread_counts))
        raise ConfigError(f"--plain is the documented table of one number of threads, not of {counts}")
    if set(study.engines) != DOCUMENTED_ENGINES or len(study.settings()) > 1:
        raise ConfigError(
            "--plain is the documented table of standard and flash with one block size, not "
            f"{' and '.join(study.engines)} with {len(study.settings())}"
        )


def plain_report(results: Results) -> str:
    """The documented text: one table for each kind of problem, named if there are several."""
    groups = group_measurements(results.measurements)
    blocks = [_BANNER, "=" * 36]
    for key, rows in groups.items():
        if len(groups) > 1:
            blocks += ["", problem_line(key)]
        blocks += ["", _line("Seq Len", "Standard Mem", "Flash Mem", "Savings", "Time (ms)"), "-" * 80]
        for standard, flash in by_problem(rows):
            some = flash or standard
            assert some is not None, "a problem comes from a row"
            ratio = memory_ratio(standard, flash)
            saved = "-" if ratio is None else f"{ratio:.1f}x"
            cells = (_memory(standard), _memory(flash), saved, _time(flash))
            blocks.append(_line(length_word(some.problem), *cells))
        blocks += map(str, reason_lines(rows))
    return "\n".join(blocks) + "\n"


def _line(*cells: str) -> str:
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, (10, 15, 15, 10, 10), strict=True))


def _memory(row: Measurement | None) -> str:
    return documented_bytes(row.memory.workspace_peak_bytes) if row and row.memory else _instead(row)


def _time(row: Measurement | None) -> str:
    if row is None or row.time is None or row.status != "ok":
        return _instead(row)
    return f"{row.time.median_ns / 1e6:.2f}"


def _instead(row: Measurement | None) -> str:
    return "-" if row is None else STATUS_WORDS.get(row.status, "-")
