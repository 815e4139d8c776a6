"""`flashbench plan`: attention over a sequence on many hosts, computed before it is run."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import options
from flashbench.dtypes import WIDEST_FIRST

EPILOG = (
    "Examples:\n"
    "  flashbench plan --hosts 64 --seq-len 16M --heads 32 --link 25GB/s\n"
    "  flashbench plan --hosts 64 --seq-len 16M --heads 32 --kv-heads 8 --head-dim 128 --dtype bfloat16 "
    "--causal --memory 256GiB --link 100Gb/s\n"
    "  flashbench plan --hosts 8 --seq-len 1M --link 10Gb/s --rates host.json --json plan.json\n\n"
    "Plans the attention of flashbench.integrations.dask, and its backward. Rates are those of this machine, "
    "measured in about half a minute (extra cluster), or those of a file of `flashbench profile`. The table "
    "ends with what it assumes.\n\n"
    "Exit code: 0 planned; 1 the memory of a host is not enough; 2 bad input, or rates that are missing."
)
_HOSTS = "Hosts"
_RATES = "Rates"


def plan(
    context: typer.Context,
    hosts: Annotated[
        str, typer.Option("--hosts", metavar="N", help="Hosts, such as 64.", rich_help_panel=_HOSTS)
    ],
    seq_len: Annotated[
        str,
        typer.Option(
            "--seq-len",
            "-n",
            metavar="N",
            help="Tokens of the sequence, such as 16M (16 * 1024 * 1024) or 512k.",
            rich_help_panel=options.PROBLEM,
        ),
    ],
    link: Annotated[
        str,
        typer.Option(
            "--link",
            metavar="RATE",
            help="What a host receives: bytes or bits (b) a second, such as 25GB/s, 12.5GiB/s or 100Gb/s.",
            rich_help_panel=_HOSTS,
        ),
    ],
    heads: Annotated[
        str | None,
        typer.Option(
            "--heads",
            metavar="N",
            help="Query heads, such as 32 (default 1).",
            rich_help_panel=options.PROBLEM,
        ),
    ] = None,
    kv_heads: options.KvHeads = None,
    head_dim: Annotated[
        str | None,
        typer.Option(
            "--head-dim",
            metavar="N",
            help="Size of a head, 1 to 256, such as 128 (default 64).",
            rich_help_panel=options.PROBLEM,
        ),
    ] = None,
    head_dim_v: Annotated[
        str | None,
        typer.Option(
            "--head-dim-v",
            metavar="N",
            help="Size of a head of values, such as 128, if it is another.",
            rich_help_panel=options.PROBLEM,
        ),
    ] = None,
    batch: options.Batch = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="D",
            help="float64, float32, bfloat16 or float16 (default float32).",
            autocompletion=lambda: list(WIDEST_FIRST),
            rich_help_panel=options.PROBLEM,
        ),
    ] = None,
    causal: Annotated[
        str | None,
        typer.Option(
            "--causal",
            metavar="no|yes",
            help="A query sees only the keys up to its own place; --causal alone is yes (default no).",
            autocompletion=lambda: ["no", "yes"],
            rich_help_panel=options.PROBLEM,
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            metavar="N|L,R",
            help="Keys that a query sees on each side, such as 4k or 4k,0 (default all).",
            rich_help_panel=options.PROBLEM,
        ),
    ] = None,
    direction: Annotated[list[str] | None, options.direction("fwd,bwd", words=("fwd", "bwd"))] = None,
    chunk: Annotated[
        str | None,
        typer.Option(
            "--chunk",
            metavar="N",
            help="Queries of a chunk, such as 128k (default two chunks a host, or smaller if --memory asks "
            "for it).",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    key_chunk: Annotated[
        str | None,
        typer.Option(
            "--key-chunk",
            metavar="N",
            help="Keys of a chunk, such as 32k (default as --chunk, or smaller, to hold few in flight).",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    in_flight: Annotated[
        str | None,
        typer.Option(
            "--in-flight",
            metavar="N",
            help="Chunks of keys in use at once, as of attention (default one more than hosts).",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="Of a host, such as 256GiB: the table then says whether it is enough.",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            "--latency",
            metavar="TIME",
            help="Of Dask's messages, from the end of a task to the start of the next (default 5ms).",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    task_overhead: Annotated[
        str | None,
        typer.Option(
            "--task-overhead",
            metavar="TIME",
            help="Of Dask's scheduler for one task, such as 300us (default 0.5ms).",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(
            "--rates",
            metavar="FILE.json",
            help="Take the rates of a host from a file of `flashbench profile`, and measure nothing.",
            rich_help_panel=_RATES,
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            metavar="N",
            help="Threads of the measurement, such as 2 (default every core this process may use).",
            rich_help_panel=_RATES,
        ),
    ] = None,
    json: Annotated[str | None, options.json("the plan")] = None,
) -> None:
    """Plan attention over a sequence that no machine holds: time, bytes moved and memory a host."""
    # Inside: these import NumPy, which --help must not.
    from flashbench.cli.planning import plan_and_report

    plan_and_report(context.params)
