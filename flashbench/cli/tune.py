"""`flashbench tune`: finds and keeps this CPU's block sizes, which `auto` then uses."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import options

EPILOG = (
    "Examples:\n"
    "  flashbench tune\n"
    "  flashbench tune --dtype float32 --head-dim 128 --seq-lens 1k,2k\n"
    "  flashbench tune --show\n"
    "  flashbench tune --reset\n\n"
    "Leave the machine alone meanwhile. A size is kept only where it was faster than the built-in choice in "
    "fresh processes, at both ends of its band of lengths and at the length that shares out worst among the "
    "threads, by 1.5% or more and for certain; it takes no more memory than the built-in choice or the "
    "documented 64 bytes a key. Processes that already run keep the sizes that they began with. Other sizes "
    "may change the last bits of a result. FLASHBENCH_TUNED_DIR moves the tables.\n\n"
    "Exit code: 0 tuned, or nothing to gain; 1 a process crashed or hung; 2 bad input."
)


def tune(
    context: typer.Context,
    seq_lens: Annotated[
        list[str] | None,
        options.seq_lens(
            "256,512,1k,2k,4k: one of each band, from a power of two to the next, 256 to 8191 together"
        ),
    ] = None,
    dtype: Annotated[list[str] | None, options.dtype(options.WIDE_DTYPES)] = None,
    head_dim: options.HeadDim = None,
    causal: Annotated[str | None, options.causal("both")] = None,
    direction: Annotated[list[str] | None, options.direction("fwd,bwd", words=("fwd", "bwd"))] = None,
    threads: Annotated[
        str | None,
        options.threads("; processes that may use more do not use what fewer found"),
    ] = None,
    cpus: options.Cpus = None,
    show: Annotated[bool, typer.Option("--show", help="Print this CPU's table, measure nothing.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Delete this CPU's table, measure nothing.")] = False,
    json: options.Json = None,
) -> None:
    """Find the fastest block sizes of this CPU and keep them: `auto` uses them from then on."""
    # Inside: these import NumPy, which --help must not.
    from flashbench.cli.tuning import build_plan, print_table, reset_table, run_and_keep
    from flashbench.errors import ConfigError

    if reset and (show or json is not None):
        raise ConfigError("--reset goes without --show and --json: it leaves nothing to show")
    if reset:
        reset_table()
    elif show:
        print_table(json=json)
    else:
        plan = build_plan(context.params)
        run_and_keep(plan, json=json)
