"""The record of a run: the one place that makes `Results`, whatever the study measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

from flashbench.measure.machine import MachineFacts
from flashbench.results.record import (
    SCHEMA_VERSION,
    Duel,
    InferenceTest,
    Kind,
    Machine,
    Measurement,
    NumaNode,
    Process,
    Results,
    TrainingStep,
)
from flashbench.studies.noise_floor import machine_floor
from flashbench.system.cores import available_cores


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What is known of a run when it starts. `command` is what the user typed, `config` every setting."""

    kind: Kind
    command: Sequence[str]
    config: dict[str, Any]
    created: str = dataclasses.field(default_factory=_now)

    def results(
        self,
        machine: Machine,
        *,
        measurements: Sequence[Measurement] = (),
        training: Sequence[TrainingStep] = (),
        inference: Sequence[InferenceTest] = (),
        duels: Sequence[Duel] = (),
        processes: Mapping[str, Process] | None = None,
        warnings: Sequence[str] = (),
        complete: bool = True,
        hosts: Sequence[Results] = (),
    ) -> Results:
        """The results file of this run, with what was measured so far."""
        return Results(
            schema_version=SCHEMA_VERSION,
            kind=self.kind,
            created=self.created,
            flashbench_version=version("flashbench"),
            command=list(self.command),
            config=self.config,
            machine=machine,
            measurements=list(measurements),
            processes=dict(processes or {}),
            duels=list(duels),
            training=list(training),
            inference=list(inference),
            warnings=list(warnings),
            complete=complete,
            hosts=list(hosts),
        )


def make_machine(
    facts: MachineFacts,
    peak_gflops: dict[str, float],
    threads: int,
    *,
    read_bandwidth_gbps: float | None = None,
) -> Machine:
    """The record of this machine: its facts, its measured limits, and the noise floor of an earlier duel."""
    from flashbench.codegen.isa import ISA  # here: loads Numba, which runs of other engines do not need

    floor = machine_floor(facts.cpu, threads)
    nodes = [NumaNode(**node._asdict()) for node in facts.numa_nodes]
    return Machine(
        **{**dataclasses.asdict(facts), "numa_nodes": nodes},
        isa=ISA.name,
        cores=available_cores(),
        peak_gflops=peak_gflops,
        peak_threads=threads if peak_gflops else None,
        read_bandwidth_gbps=read_bandwidth_gbps,
        noise_floor=None if floor is None else floor.floor,
    )
