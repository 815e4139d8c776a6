"""A study on a cluster: its settings, its file, and what is missing in it at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from flashbench.errors import ConfigError, ResultsError
from flashbench.measure.machine import describe_machine
from flashbench.results.record import Results
from flashbench.studies.cluster.connect import connected
from flashbench.studies.cluster.dispatch import Dispatch
from flashbench.studies.cluster.jobs import Ledger
from flashbench.studies.cluster.parts import AnyStudy, parts_of
from flashbench.studies.nothing import nothing_to_measure
from flashbench.studies.progress import Progress
from flashbench.studies.resume import check_same_study
from flashbench.studies.run_record import RunRecord, make_machine
from flashbench.studies.runner import Interrupted


def run_on_cluster(
    study: AnyStudy,
    *,
    cluster: str,
    each_node: bool,
    command: Sequence[str],
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_results: Callable[[Results], None] = lambda _: None,
    earlier: Results | None = None,
) -> Results:
    """Measure the study on the hosts of a cluster: its parts on any of them, or all of it on each.

    cluster: "tcp://HOST:PORT", "local:N" or "slurm:FILE.yaml". `earlier` is the file of such a run.

    A part whose worker is lost is measured again elsewhere, and its rows say so. What no host measured is
    missing in the results, which are then not complete, and a warning names it.

    Raises ConfigError for a wrong `cluster`, EngineError if Dask or an engine is missing, ResultsError if
    `earlier` is of another study, ClusterError if there is no worker that may measure or the scheduler is
    gone, NothingToMeasureError if no part can be measured, and Interrupted on Ctrl-C.
    """
    if getattr(study, "budget_s", None) is not None and not each_node:
        raise ConfigError(
            "--budget is a time on one machine, so it cannot be shared among hosts",
            hint="give --rounds, or --each-node",
        )
    config = {**msgspec.to_builtins(study), "each_node": each_node}
    record = RunRecord(study.kind, command, config)
    if earlier is not None:
        _check_earlier(earlier, study, config)
    parts = parts_of(study, whole=each_node)
    ledger = Ledger(parts, earlier, each_node=each_node)
    machine = make_machine(describe_machine(), {}, study.threads if isinstance(study.threads, int) else 1)

    def results(warnings: Sequence[str] = (), *, complete: bool = False) -> Results:
        return record.results(machine, hosts=ledger.hosts, warnings=warnings, complete=complete)

    with connected(cluster) as connection:
        dispatch = Dispatch(connection, ledger, cluster, command, on_progress, lambda: on_results(results()))
        try:
            dispatch.measure()
        except KeyboardInterrupt:
            raise Interrupted(results()) from None
        finally:
            dispatch.close()
    if dispatch.nothing and not ledger.finished:
        raise nothing_to_measure(dispatch.nothing)
    refused = list(dispatch.workers.refused.values())
    warnings = list(refused)
    warnings += [f"{name} was not measured: {why}" for name, why in ledger.given_up.items()]
    warnings += [f"{name}: {why}" for name, why in dispatch.nothing]
    return results(warnings, complete=not (ledger.given_up or (each_node and refused)))


def _check_earlier(earlier: Results, study: AnyStudy, config: dict[str, Any]) -> None:
    if earlier.rows and not earlier.hosts:
        raise ResultsError(
            "the unfinished run is of one machine, and --cluster measures on others",
            hint="leave out --cluster, or name another file",
        )
    known = msgspec.to_builtins(type(study)()) | earlier.config
    check_same_study(earlier, config, earlier.machine.cpu, kind=study.kind, known_config=known)
