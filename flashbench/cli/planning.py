"""The work of `flashbench plan`: read the options, get rates, plan, and print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console

from flashbench.cli.progress import show_progress
from flashbench.cli.readers import LARGEST, ONE_COUNT, OPTIONS, PASSES, Options, read_dtypes, read_params
from flashbench.cli.streams import check_output, write_output
from flashbench.cli.values import parse_choices, parse_link, parse_short_time, parse_whole, parse_window
from flashbench.errors import ConfigError
from flashbench.problem import AttentionProblem, Direction
from flashbench.report.plan import plan_json, plan_report
from flashbench.report.units import parse_bytes
from flashbench.results.store import load_measurements
from flashbench.studies.plan.clock import Network
from flashbench.studies.plan.measure import measure_rates
from flashbench.studies.plan.plan import Chunks, make_plan, usual_chunks
from flashbench.studies.plan.rates import Rates, rates_of_file
from flashbench.studies.windows import window_of
from flashbench.system.cores import available_cores

USUAL_DTYPE = "float32"
# Dask's workers and scheduler send messages every 2 ms; benchmarks/plan_validation.py measures both.
USUAL_LATENCY_S = 0.005
USUAL_TASK_S = 0.0005


def _dtype(option: str, text: str) -> str:
    names = read_dtypes(option, text)
    if len(names) > 1:
        raise ConfigError(f"{option} takes one dtype, not {text!r}")
    return names[0]


def _causal(option: str, text: str) -> bool:
    return parse_choices(option, text, {"no": False, "yes": True}, many=False)[0]


_OPTIONS: Options = {
    **{name: (name, parse_whole) for name in ("hosts", "seq_len", "heads", "head_dim", "head_dim_v")},
    **{name: (name, parse_whole) for name in ("chunk", "key_chunk", "in_flight")},
    **{name: OPTIONS[name] for name in ("batch", "kv_heads")},
    "dtype": ("dtype", _dtype),
    "causal": ("causal", _causal),
    "window": ("window", parse_window),
    "direction": PASSES,
    "link": ("link", parse_link),
    "memory": ("memory", lambda option, text: parse_bytes(text, name=option)),
    "latency": ("latency_s", parse_short_time),
    "task_overhead": ("task_s", parse_short_time),
    "threads": ONE_COUNT,
}


def plan_and_report(params: Mapping[str, Any]) -> None:
    """Plan and print the table; with --json, write the document there and print the table on stderr.

    Exits with 1 if a host's memory is not enough. Raises ConfigError, AttentionError, ResultsError, and
    EngineError if nothing can be measured.
    """
    given = read_params(params, _OPTIONS)
    json = params["json"]
    check_output(json)
    problem = _problem(given)
    directions = list(dict.fromkeys(given.get("directions", ["fwd", "bwd"])))
    directions.sort(key=["fwd", "bwd"].index)
    hosts, in_flight, memory = given["hosts"], given.get("in_flight"), given.get("memory")
    chunks = usual_chunks(
        problem,
        hosts,
        chunk=given.get("chunk"),
        key_chunk=given.get("key_chunk"),
        in_flight=in_flight,
        directions=directions,
        memory_limit_bytes=memory,
    )
    network = Network(
        link=given["link"],
        latency_s=given.get("latency_s", USUAL_LATENCY_S),
        task_s=given.get("task_s", USUAL_TASK_S),
    )
    rates = _rates(params["rates"], given, problem, chunks, directions)
    plan = make_plan(
        problem,
        hosts=hosts,
        network=network,
        rates=rates,
        directions=directions,
        chunks=chunks,
        in_flight=in_flight,
        memory_limit_bytes=memory,
    )
    if json is not None:
        write_output(json, plan_json(plan))
    Console(stderr=json is not None).print(plan_report(plan))
    raise typer.Exit(1 if any(each.fits is False for each in plan.passes) else 0)


def _problem(given: Mapping[str, Any]) -> AttentionProblem:
    tokens, causal = given["seq_len"], given.get("causal", False)
    if tokens > LARGEST:
        raise ConfigError(f"--seq-len takes numbers up to {LARGEST:.0e}, not {tokens}")
    return AttentionProblem.of(
        tokens,
        batch=given.get("batch", 1),
        num_heads=given.get("heads", 1),
        num_kv_heads=given.get("kv_heads"),
        head_dim=given.get("head_dim", 64),
        head_dim_v=given.get("head_dim_v"),
        dtype=given.get("dtype", USUAL_DTYPE),
        causal=causal,
        window=window_of(given.get("window", "none"), causal=causal),
    )


def _rates(
    path: str | None,
    given: Mapping[str, Any],
    problem: AttentionProblem,
    chunks: Chunks,
    directions: list[Direction],
) -> Rates:
    """Of the file, or else measured."""
    if path is None:
        with show_progress() as on_progress:
            return measure_rates(
                problem,
                chunks,
                directions,
                threads=given.get("threads", available_cores()),
                on_progress=on_progress,
            )
    if "threads" in given:
        raise ConfigError("--threads is of a measurement, and --rates measures nothing: give one of them")
    return rates_of_file(load_measurements(path), path, problem, directions, chunks.keys)
