"""Plans of a made-up cluster, and layouts of any small problem."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from flashbench.problem import AttentionProblem, Direction
from flashbench.studies.plan.clock import Network
from flashbench.studies.plan.layout import Layout
from flashbench.studies.plan.plan import Plan, make_plan, usual_chunks
from flashbench.studies.plan.rates import PassRate, Rates

NETWORK = Network(link=25e9, latency_s=0.005, task_s=0.0005)
RATES = Rates(
    source="example.json (Example CPU)",
    merge_source="guessed",
    forward=PassRate(gflops=2000.0, merge_ns=10.0, seqlen=4096, threads=64),
    backward=PassRate(gflops=1600.0, merge_ns=3.0, seqlen=4096, threads=64),
)
BOTH: tuple[Direction, ...] = ("fwd", "bwd")


def plan_of(
    problem: AttentionProblem,
    *,
    hosts: int = 64,
    network: Network = NETWORK,
    directions: tuple[Direction, ...] = BOTH,
    memory: int | None = None,
    in_flight: int | None = None,
    **chunks: Any,
) -> Plan:
    """The plan with RATES. chunks: chunk, key_chunk."""
    limits: dict[str, Any] = {"in_flight": in_flight, "directions": directions, "memory_limit_bytes": memory}
    return make_plan(
        problem,
        hosts=hosts,
        chunks=usual_chunks(problem, hosts, **limits, **chunks),
        network=network,
        rates=RATES,
        **limits,
    )


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Of up to 40 tokens."""
    rows = draw(st.integers(1, 40))
    sides = st.one_of(st.none(), st.integers(0, 45))
    problem = AttentionProblem.of(
        rows,
        batch=draw(st.integers(1, 2)),
        num_heads=draw(st.sampled_from([2, 4])),
        num_kv_heads=2,
        head_dim=4,
        head_dim_v=draw(st.sampled_from([4, 3])),
        dtype=draw(st.sampled_from(["float64", "float32", "bfloat16"])),
        causal=draw(st.booleans()),
        window=(draw(sides), draw(sides)),
    )
    chunk, key_chunk = (draw(st.integers(1, rows)) for _ in range(2))
    hosts, in_flight = draw(st.integers(1, 5)), draw(st.one_of(st.none(), st.integers(1, 6)))
    return Layout(problem, hosts, chunk, key_chunk, in_flight)
