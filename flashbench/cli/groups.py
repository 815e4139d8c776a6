"""Options in groups: the signature of a command lists its groups, and Typer sees the options of each.

    @grouped
    def sweep(context: typer.Context, *, features: Annotated[Given, FEATURES]) -> None:

has --window and all others, and `features` is {"window": ..., ...}.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import typer

from flashbench.cli import options
from flashbench.features import OPTIONS
from flashbench.features.entry import Option

Given = dict[str, Any]  # by parameter, as `context.params` has it for the whole command


class Output(NamedTuple):
    """Where the results of a run go."""

    json: str | None
    save: str | None
    resume: bool

    @property
    def file(self) -> str | None:
        """The one that keeps them, if any: stdout does not."""
        return self.save or (None if self.json == "-" else self.json)


class Where(NamedTuple):
    """Where a study is measured."""

    cluster: str | None  # None: here
    each_node: bool


HERE = Where(None, each_node=False)


class Group(NamedTuple):
    """Options, by the parameter of a command that each would be without groups."""

    options: Mapping[str, Any]  # annotated types, as Typer takes them
    makes: Callable[..., Any] = dict  # the command's value, from those of the options
    defaults: Mapping[str, Any] = {}  # where that is not None, which is "not given"

    def without(self, *names: str) -> Group:
        """The same, less the options that a command does not have or declares itself."""
        return self._replace(
            options={name: option for name, option in self.options.items() if name not in names}
        )

    def parameters(self) -> list[inspect.Parameter]:
        """The options as a signature has them."""
        return [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=self.defaults.get(name), annotation=option
            )
            for name, option in self.options.items()
        ]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its groups as its parameters, each where its group stands."""
    groups: dict[str, Group] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        marks = getattr(parameter.annotation, "__metadata__", ())
        group = next((mark for mark in marks if isinstance(mark, Group)), None)
        if group is None:
            parameters.append(parameter)
        else:
            groups[parameter.name] = group
            parameters += group.parameters()

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group.makes(**{option: values.pop(option) for option in group.options})
        command(**values)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def problem(seq_lens: str, *, causal: str = "no") -> Group:
    """Shapes, dtype, causality and direction. seq_lens, causal: the defaults in words."""
    return Group(
        {
            "seq_lens": Annotated[list[str] | None, options.seq_lens(seq_lens)],
            "seq_len_k": options.SeqLenK,
            "decode": options.Decode,
            "queries": options.Queries,
            "batch": options.Batch,
            "heads": options.Heads,
            "kv_heads": options.KvHeads,
            "head_dim": options.HeadDim,
            "dtype": options.Dtype,
            "causal": Annotated[str | None, options.causal(causal)],
            "causal_alignment": options.CausalAlignment,
            "direction": options.Direction,
        }
    )


def _feature(option: Option) -> Any:
    """An option of the table of features, as Typer takes it."""
    kinds = {"flag": bool | None, "windows": list[str] | None}
    words = list(option.words)
    declared = typer.Option(
        option.flags,
        metavar=option.metavar,
        help=option.help,
        autocompletion=(lambda: words) if words else None,
        rich_help_panel=options.FEATURES,
    )
    return Annotated[kinds.get(option.value, str | None), declared]


FEATURES = Group({name: _feature(option) for name, option in OPTIONS.items()})
OUTPUT = Group(
    {"json": options.Json, "save": options.Save, "resume": options.Resume},
    makes=Output,
    defaults={"resume": False},
)

CLUSTER = Group(
    {"cluster": options.Cluster, "each_node": options.EachNode}, makes=Where, defaults={"each_node": False}
)


def engines(block_sizes: str = "auto", *, several_threads: bool = False) -> Group:
    """What runs. block_sizes: the default in words."""
    threads = options.threads("; several measure a scaling curve", metavar="N,...", example="2 or 1,2,4")
    return Group(
        {
            "engine": options.Engine,
            "block_sizes": Annotated[list[str] | None, options.block_sizes(block_sizes)],
            "block_q": options.BlockQ,
            "block_k": options.BlockK,
            "path": options.Path,
            "threads": Annotated[list[str] | None, threads] if several_threads else options.Threads,
            "cpus": options.Cpus,
        }
    )


def measuring(rounds: str = "6") -> Group:
    """How it is measured. rounds: the default in words."""
    return Group(
        {
            "repeats": options.Repeats,
            "rounds": Annotated[str | None, options.rounds(rounds)],
            "budget": options.Budget,
            "cold": options.Cold,
            "seed": options.Seed,
            "memory": options.MeasureMemory,
            "check": options.Check,
            "memory_budget": options.MemoryBudget,
            "timeout": options.Timeout,
        }
    )
