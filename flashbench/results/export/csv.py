"""One row per measurement for spreadsheets and data frames: RFC 4180, a header, units in the names.

Samples are not here: the results file has them, one list per process. docs/export.md describes the columns.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from flashbench.features import FEATURES
from flashbench.problem import AttentionProblem
from flashbench.results.export.names import DIRECTIONS, named, with_cold_caches
from flashbench.results.hosts import each_host
from flashbench.results.peaks import peak_of
from flashbench.results.record import Duel, Measurement, Process, Results


class Line(NamedTuple):
    """What a row is made of; the properties are the fields that no record has as they stand in the file."""

    name: str
    row: Measurement
    file: Results
    process: Process | None  # that the measurement was made in
    duel: Duel | None  # that it was side b of

    @property
    def direction(self) -> str:
        return DIRECTIONS[self.row.direction]

    @property
    def blocks_asked(self) -> str | None:
        asked = self.row.blocks_asked
        return asked if asked is None or asked == "auto" else f"{asked[0]}x{asked[1]}"

    @property
    def cold(self) -> bool:
        return with_cold_caches(self.file)

    @property
    def processes(self) -> int | None:
        return len(self.row.time.samples_ns) if self.row.time else None

    @property
    def calls(self) -> int | None:
        return sum(map(len, self.row.time.samples_ns)) if self.row.time else None

    @property
    def max_abs_error(self) -> float | None:
        """NaN for an error that is not finite: empty is for one that was not measured."""
        if self.row.accuracy is None:
            return None
        return float("nan") if self.row.accuracy.max_abs_error is None else self.row.accuracy.max_abs_error

    @property
    def flashbench_version(self) -> str:
        return self.process.flashbench_version if self.process else self.file.flashbench_version

    @property
    def python(self) -> str | None:
        return self.process.python_version if self.process else self.file.machine.python

    @property
    def peak_gflops(self) -> float | None:
        return peak_of(self.file.machine, self.row)


FORMULA = ("=", "+", "-", "@")
# column -> where it stands, from a Line on; of a feature, what makes it of the problem
COLUMNS: Mapping[str, str | Callable[[AttentionProblem], Any]] = {
    "name": "name",
    "engine": "row.engine",
    "side": "row.side",
    "direction": "direction",
    "batch": "row.problem.batch",
    "num_heads": "row.problem.num_heads",
    "num_kv_heads": "row.problem.num_kv_heads",
    "seqlen_q": "row.problem.seqlen_q",
    "seqlen_k": "row.problem.seqlen_k",
    "head_dim": "row.problem.head_dim",
    "head_dim_v": "row.problem.head_dim_v",
    "dtype": "row.problem.dtype",
    "causal": "row.problem.causal",
    "causal_alignment": "row.problem.causal_alignment",
    "softmax_scale": "row.problem.scale",
    **{name: value for feature in FEATURES.values() for name, value in feature.columns.items()},
    "blocks_asked": "blocks_asked",
    "block_q": "row.block_q",
    "block_k": "row.block_k",
    "threads": "row.threads",
    "cold": "cold",
    "kernel": "row.kernel",
    "isa_path": "row.isa_path",
    "path_asked": "row.path_asked",
    "status": "row.status",
    "reason": "row.reason",
    "note": "row.note",
    "processes": "processes",
    "calls": "calls",
    "median_ns": "row.time.median_ns",
    "low_ns": "row.time.low_ns",
    "high_ns": "row.time.high_ns",
    "minimum_ns": "row.time.minimum_ns",
    "outliers": "row.time.outliers",
    "gflops": "row.rates.gflops",
    "percent_of_peak": "row.rates.percent_of_peak",
    "gbps": "row.rates.gbps",
    "percent_of_bandwidth": "row.rates.percent_of_bandwidth",
    "workspace_peak_bytes": "row.memory.workspace_peak_bytes",
    "expected_workspace_bytes": "row.memory.expected_workspace_bytes",
    "input_bytes": "row.memory.input_bytes",
    "output_bytes": "row.memory.output_bytes",
    "resident_delta_bytes": "row.memory.resident_delta_bytes",
    "memory_instrument": "row.memory.instrument",
    "max_abs_error": "max_abs_error",
    "tolerance": "row.accuracy.tolerance",
    "energy_joules": "row.energy_joules",
    "moved": "row.disturbance.moved",
    "others_cores": "row.disturbance.others_cores",
    "steal_percent": "row.disturbance.steal_percent",
    "throttled_periods": "row.disturbance.throttled_periods",
    "duel_ratio": "duel.ratio",
    "duel_low": "duel.low",
    "duel_high": "duel.high",
    "duel_p_holm": "duel.p_holm",
    "duel_threshold": "duel.threshold",
    "duel_verdict": "duel.verdict",
    "kind": "file.kind",
    "created": "file.created",
    "flashbench_version": "flashbench_version",
    "python": "python",
    "host": "file.machine.host",
    "cpu": "file.machine.cpu",
    "microarchitecture": "file.machine.microarchitecture",
    "isa": "file.machine.isa",
    "cores": "file.machine.cores",
    "cpu_quota": "file.machine.cpu_quota",
    "memory_bytes": "file.machine.memory_bytes",
    "peak_gflops": "peak_gflops",
    "peak_threads": "file.machine.peak_threads",
    "read_bandwidth_gbps": "file.machine.read_bandwidth_gbps",
    "governor": "file.machine.governor",
    "os": "file.machine.os",
}


def takes(row: Measurement) -> bool:
    """Every measurement: `status` and `reason` say why one has no figures."""
    return True


def render(results: Results) -> str:
    """What is not known or does not apply is an empty field; numbers keep every digit, texts stay texts.

    Of a file of several hosts the rows of one host follow those of another: column `host` tells them apart.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for file in each_host(results):
        writer.writerows(_rows(file))
    return text.getvalue()


def _rows(file: Results) -> Iterator[list[Any]]:
    duels = {duel.b: duel for duel in file.duels}
    for place, (name, row) in enumerate(named(file)):
        line = Line(name, row, file, file.processes.get(row.side or row.engine), duels.get(place))
        yield [_field(line, source) for source in COLUMNS.values()]


def _field(line: Line, source: str | Callable[[AttentionProblem], Any]) -> Any:
    """None, which csv writes as an empty field, as soon as anything on the way is None."""
    value: Any = line
    if callable(source):
        value = source(line.row.problem)
    else:
        for step in source.split("."):
            value = None if value is None else getattr(value, step)
    if isinstance(value, bool):
        return str(value).lower()
    # A spreadsheet takes a text that begins so for a formula, and computes it; a number is only a number.
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
