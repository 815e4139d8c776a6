"""The command `flashbench`: its table of commands, and the one place that turns an error into a line."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, TextIO

import typer
import typer.main

from flashbench.cli import (
    compare,
    duel,
    engines,
    export,
    infer,
    machine,
    plan,
    profile,
    report,
    sweep,
    train,
    tune,
    verify,
)
from flashbench.cli.interrupts import INTERRUPTED, was_interrupted
from flashbench.cli.say import say
from flashbench.cli.spellings import Command
from flashbench.cli.streams import READER_LEFT, finish_streams, prepare_streams, silence_streams
from flashbench.errors import FlashbenchError, mid_sentence
from flashbench.report.step_log import guarded_log

BUG = 70  # EX_SOFTWARE: not 1, which says that a measurement failed or regressed

# Typer raises this for a wrong command line. It is found as a base class of BadParameter, because older
# releases of Typer take it from Click and newer ones from a copy of their own.
_UsageError = typer.BadParameter.mro()[1]

EPILOG = (
    "Examples:\n"
    "  flashbench profile\n"
    "  flashbench profile --seq-lens 1k,4k --dtype float32 --causal --save new.json\n"
    "  flashbench verify --engine flash\n"
    "  flashbench duel flash standard\n"
    "  flashbench compare old.json new.json"
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"flashbench {version('flashbench')}")
        raise typer.Exit


def flashbench(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    """What exact attention costs on your CPU: time, peak memory, exactness, share of the hardware limit."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def make_app(*, for_command: bool = False) -> typer.Typer:
    """The table of commands.

    for_command: leave out the options --help and --install-completion before the command. Typer reads them
    with Pydantic, even if the command line does not have them, and Pydantic takes 0.1 s to import.
    """
    app = typer.Typer(
        name="flashbench",
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=not for_command,
        context_settings={"help_option_names": ["--help", "-h"]},
        epilog=EPILOG,
    )
    app.callback(invoke_without_command=True, add_help_option=not for_command)(flashbench)
    app.command(cls=Command, epilog=profile.EPILOG)(profile.profile)
    app.command(cls=Command, epilog=sweep.EPILOG)(sweep.sweep)
    app.command(cls=Command, epilog=verify.EPILOG)(verify.verify)
    app.command(cls=Command, epilog=compare.EPILOG)(compare.compare)
    app.command(cls=Command, epilog=duel.EPILOG)(duel.duel)
    app.command(cls=Command, epilog=train.EPILOG)(train.train)
    app.command(cls=Command, epilog=infer.EPILOG)(infer.infer)
    app.command(cls=Command, epilog=export.EPILOG)(export.export)
    app.command(cls=Command, epilog=report.EPILOG)(report.report)
    app.command(cls=Command, epilog=plan.EPILOG)(plan.plan)
    app.command(cls=Command, epilog=machine.EPILOG)(machine.machine)
    app.command(cls=Command, epilog=tune.EPILOG)(tune.tune)
    app.command(cls=Command, epilog=engines.EPILOG)(engines.engines)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors become `error:` and `hint:` lines on stderr."""
    prepare_streams()
    try:
        code = _run(arguments)
        try:
            finish_streams()
        except BrokenPipeError:
            raise
        except OSError as error:  # the disk behind stdout is full
            _say("error", f"cannot write to stdout: {error.strerror or error}")
            code = 2
    except BrokenPipeError:
        silence_streams()
        code = READER_LEFT
    except SystemExit as leaving:  # Rich and Typer exit like this when a pipe breaks
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        silence_streams()
        code = READER_LEFT
    return code


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Removed here, so that it may follow the command: users add it at the end, after an error.
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    app = make_app(for_command=bool(words) and not words[0].startswith("-"))
    try:
        with warnings.catch_warnings(), guarded_log():
            if not debug:
                warnings.showwarning = _say_warning
            # Every command reads `obj` as context.obj: the command line as typed, for the results file.
            code = typer.main.get_command(app).main(
                words, prog_name="flashbench", standalone_mode=False, obj=["flashbench", *words]
            )
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, FlashbenchError) or not was_interrupted():
            return _explain(error, debug=debug)
        code = INTERRUPTED  # a library raised another error in its place
    if code == INTERRUPTED:
        _say("interrupted")
    return code if isinstance(code, int) else 0


def _explain(error: Exception, *, debug: bool) -> int:
    """Print one line on what is wrong and one on what to do, and return the exit code."""
    if debug:
        traceback.print_exception(error)
    hint: str | None
    if isinstance(error, FlashbenchError):
        message, hint, code = str(error), error.hint, error.exit_code
    elif isinstance(error, _UsageError):
        usage: Any = error
        text = usage.format_message()
        message, code = mid_sentence(text).rstrip("."), 2
        hint = f"{usage.ctx.command_path} --help lists what there is" if usage.ctx else None
    elif isinstance(error, OSError):  # such as a full disk behind stdout
        message, hint, code = str(error), None, 2
    else:
        message, code = f"unexpected {type(error).__name__}: {error}", BUG
        hint = "this is a mistake of flashbench; --debug shows where, please report it"
    _say("interrupted" if code == INTERRUPTED else "error", message)
    if hint:
        _say("hint", hint)
    return code


def _say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Replace `warnings.showwarning`, which also prints the line of source that warned."""
    _say("warning", str(message))


def _say(label: str, text: str | None = None) -> None:
    """Print one line on stderr, even if the text has several."""
    say(label if text is None else f"{label}: {' '.join(text.split())}")
