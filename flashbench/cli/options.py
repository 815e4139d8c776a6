"""The options that commands share, each declared once; `groups` composes them.

None means "not given": the study file decides, and without one the default. An option whose default differs
between commands is a function that takes the default in words. A comma list may be given again for more.
The options of optional features are in the table `flashbench.features`.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flashbench.dtypes import ACCUMULATORS, DEFAULT_DTYPE, NARROWEST_FIRST, WIDEST_FIRST, listed

PROBLEM = "Problem"
FEATURES = "Features"
ENGINES = "Engines and blocks"
MEASURING = "Measuring"
CLUSTER = "Cluster"
OUTPUT = "Output"


def engine_words() -> list[str]:
    """For shell completion."""
    # Inside: the table of engines imports NumPy, which --help must not.
    from flashbench.engines import engine_names

    return engine_names()


def engine_words_or_all() -> list[str]:
    """For shell completion of an option that takes several."""
    return [*engine_words(), "all"]


def seq_lens(default: str) -> Any:
    """-n, --seq-lens."""
    return typer.Option(
        "--seq-lens",
        "-n",
        metavar="N,...",
        help=f"Sequence lengths, such as 512,4k (4096) (default {default}).",
        rich_help_panel=PROBLEM,
    )


WIDE_DTYPES = ",".join(ACCUMULATORS)
_DTYPE_WORDS, _SOME_DTYPES = listed(WIDEST_FIRST, "and"), ",".join(NARROWEST_FIRST[:2])


def dtype(default: str = DEFAULT_DTYPE) -> Any:
    """--dtype."""
    return typer.Option(
        "--dtype",
        metavar="D,...",
        help=f"{_DTYPE_WORDS}, such as {DEFAULT_DTYPE} or {_SOME_DTYPES} (default {default}).",
        autocompletion=lambda: list(WIDEST_FIRST),
        rich_help_panel=PROBLEM,
    )


def causal(default: str = "no") -> Any:
    """--causal; one without a value is yes, see `spellings`."""
    return typer.Option(
        "--causal",
        metavar="no|yes|both",
        help="A query sees only the keys up to its own place, such as --causal both; --causal alone is yes "
        f"(default {default}).",
        autocompletion=lambda: ["no", "yes", "both"],
        rich_help_panel=PROBLEM,
    )


def direction(default: str = "fwd", *, words: tuple[str, ...] = ("fwd", "bwd", "fwd+bwd")) -> Any:
    """--direction."""
    return typer.Option(
        "--direction",
        metavar="D,...",
        help=f"{', '.join(words[:-1])} and {words[-1]}, such as bwd or fwd,bwd (default {default}).",
        autocompletion=lambda: list(words),
        rich_help_panel=PROBLEM,
    )


def engine(more: str = "the others are then compared with the first") -> Any:
    """-e, --engine. more: what several mean."""
    return typer.Option(
        "--engine",
        "-e",
        metavar="NAME,...",
        help="Of `flashbench engines`, such as flash,numpy, or all that are ready; give it again for more "
        f"({more}).",
        autocompletion=engine_words_or_all,
        rich_help_panel=ENGINES,
    )


def block_sizes(default: str = "auto") -> Any:
    """-b, --block-sizes."""
    return typer.Option(
        "--block-sizes",
        "-b",
        metavar="N|auto,...",
        help="Query and key rows of a tile, or auto for the engine's choice, such as 32,64,auto "
        f"(default {default}).",
        rich_help_panel=ENGINES,
    )


def threads(more: str = "", *, metavar: str = "N", example: str = "2") -> Any:
    """--threads."""
    return typer.Option(
        "--threads",
        metavar=metavar,
        help=f"Threads of each engine, such as {example} (default every core this process may use){more}.",
        rich_help_panel=ENGINES,
    )


def plot(what: str) -> Any:
    """--plot. what: what its chart shows."""
    return typer.Option(
        "--plot",
        metavar="FILE.svg|png",
        help=f"Draw {what} there, such as chart.svg, beside the table.",
        rich_help_panel=OUTPUT,
    )


def repeats(what: str = "Timed calls in one burst", default: str = "5") -> Any:
    """--repeats."""
    return typer.Option(
        "--repeats",
        metavar="N",
        help=f"{what}, such as 7 (default {default}).",
        rich_help_panel=MEASURING,
    )


def rounds(
    default: str,
    what: str = "Fresh processes of each engine, a burst each, the engines taking turns",
) -> Any:
    """--rounds."""
    return typer.Option(
        "--rounds",
        metavar="N",
        help=f"{what}, such as 9 (default {default}).",
        rich_help_panel=MEASURING,
    )


def json(what: str = "the results") -> Any:
    """--json."""
    return typer.Option(
        "--json",
        metavar="PATH|-",
        help=f"Write {what} there, such as out.json, or - for stdout; all else then goes to stderr.",
        rich_help_panel=OUTPUT,
    )


Causal = Annotated[str | None, causal()]
Direction = Annotated[list[str] | None, direction()]
Dtype = Annotated[list[str] | None, dtype()]
Threads = Annotated[str | None, threads()]
Cpus = Annotated[
    str | None,
    typer.Option(
        "--cpus",
        metavar="N-N,...",
        help="Run the engines on these CPUs alone, such as 0-7 or 0,2,4 (default all that this process may "
        "use); `flashbench machine` lists them.",
        rich_help_panel=ENGINES,
    ),
]
Repeats = Annotated[str | None, repeats()]
Batch = Annotated[
    str | None,
    typer.Option(
        "--batch", metavar="N", help="Sequences at once, such as 8 (default 1).", rich_help_panel=PROBLEM
    ),
]
Heads = Annotated[
    list[str] | None,
    typer.Option(
        "--heads", metavar="N,...", help="Query heads, such as 8 or 1,8 (default 1).", rich_help_panel=PROBLEM
    ),
]
KvHeads = Annotated[
    str | None,
    typer.Option(
        "--kv-heads",
        metavar="N",
        help="Key and value heads, such as 2; fewer than --heads is GQA, 1 is MQA (default as many as "
        "--heads).",
        rich_help_panel=PROBLEM,
    ),
]
HeadDim = Annotated[
    list[str] | None,
    typer.Option(
        "--head-dim",
        metavar="N,...",
        help="Size of a head, 1 to 256, such as 64,128 (default 64).",
        rich_help_panel=PROBLEM,
    ),
]
CausalAlignment = Annotated[
    str | None,
    typer.Option(
        "--causal-alignment",
        metavar="A",
        help="bottom-right (the last query sees all keys) or top-left, such as --causal-alignment top-left "
        "(default bottom-right).",
        autocompletion=lambda: ["bottom-right", "top-left"],
        rich_help_panel=PROBLEM,
    ),
]
SeqLenK = Annotated[
    str | None,
    typer.Option(
        "--seq-len-k",
        metavar="N|none",
        help="Keys, such as 4k, where they differ from the queries of --seq-lens in number.",
        rich_help_panel=PROBLEM,
    ),
]
Decode = Annotated[
    bool | None,
    typer.Option(
        "--decode/--no-decode",
        help="Steps of decoding: --seq-lens are the keys that a few queries read, the rates bytes a second.",
        rich_help_panel=PROBLEM,
    ),
]
Queries = Annotated[
    str | None,
    typer.Option(
        "--queries",
        metavar="N",
        help="Queries of a step of --decode, 1 to 16, such as 4 (default 1); several see what is before "
        "them.",
        rich_help_panel=PROBLEM,
    ),
]
Engine = Annotated[list[str] | None, engine()]
BlockQ = Annotated[
    str | None,
    typer.Option(
        "--block-q",
        metavar="N",
        help="Query rows of a tile, such as 64, with --block-k.",
        rich_help_panel=ENGINES,
    ),
]
BlockK = Annotated[
    str | None,
    typer.Option(
        "--block-k",
        metavar="N",
        help="Key rows of a tile, such as 32, with --block-q.",
        rich_help_panel=ENGINES,
    ),
]
Path = Annotated[
    list[str] | None,
    typer.Option(
        "--path",
        metavar="P,...",
        help="Instructions of flash's products, such as convert,auto (default auto: the fastest here); "
        "`flashbench machine` lists them.",
        rich_help_panel=ENGINES,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="Such as 60s or 5m, instead of --rounds: every point once, then again where it is least sure.",
        rich_help_panel=MEASURING,
    ),
]
Cold = Annotated[
    bool | None,
    typer.Option(
        "--cold/--warm",
        help="Empty the caches before every timed call (default warm).",
        rich_help_panel=MEASURING,
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="Seed of the inputs, such as 1 (default 0).",
        rich_help_panel=MEASURING,
    ),
]
MeasureMemory = Annotated[
    bool | None,
    typer.Option(
        "--memory/--no-memory",
        help="Measure peak memory too, in processes that are not timed (default memory).",
        rich_help_panel=MEASURING,
    ),
]
Check = Annotated[
    bool | None,
    typer.Option(
        "--check/--no-check",
        help="Compare each result with a float64 oracle too (default check).",
        rich_help_panel=MEASURING,
    ),
]
MemoryBudget = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        metavar="SIZE",
        help="Such as 16GiB: a point predicted to need more is not tried (default what is free).",
        rich_help_panel=MEASURING,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Measure on the hosts of a Dask cluster, such as tcp://HOST:8786, local:2 (processes here) or "
        "slurm:FILE.yaml. Needs the extra cluster.",
        rich_help_panel=CLUSTER,
    ),
]
EachNode = Annotated[
    bool,
    typer.Option(
        "--each-node",
        help="Measure the whole study on each of its hosts, such as to compare them (default its lengths, or "
        "models, shared among them).",
        rich_help_panel=CLUSTER,
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="S",
        help="Seconds for one burst, one memory measurement or one check, such as 60 (default 600), and for "
        "a plug-in to load (default 60).",
        rich_help_panel=MEASURING,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE.toml",
        help="Study file, such as configs/causal.toml; options win over what it says.",
    ),
]
Json = Annotated[str | None, json()]
Save = Annotated[
    str | None,
    typer.Option(
        "--save",
        metavar="PATH",
        help="Keep the results there, such as mine.json, beside the table; the file grows with the run, and "
        "a finished one is replaced at its end.",
        rich_help_panel=OUTPUT,
    ),
]
Show = Annotated[
    str | None,
    typer.Option(
        "--show",
        metavar="FILE",
        help="Print the tables of a file that --save or --json wrote, and measure nothing.",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the unfinished run in the file of --save or --json.",
        rich_help_panel=OUTPUT,
    ),
]
