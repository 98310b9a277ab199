"""The `tpplan` command: finds the subcommand, and turns every outcome into an exit code and one clear line.

0 done, 1 user error, 2 usage, 3 nothing fits, 130 ctrl-C. A subcommand's module is imported only when it is called.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
from typing import Any, NoReturn

import click

from .. import __version__

SUMMARIES = {
    "profile": "Measure the devices of this machine.",
    "solve": "Find the fastest split of a model over those devices.",
    "simulate": "Play a plan through step by step, and say what decides its speed.",
    "run": "Generate text with the split model.",
    "bench": "Time a plan on this machine.",
    "whatif": "Say what other devices and links would change.",
    "export": "Print the nearest command line of another engine.",
    "doctor": "Say what this machine has and what is missing.",
}


class Commands(click.Group):
    """Subcommands by name, each in the module of that name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUMMARIES:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __package__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """Split one language model over the unequal devices of one machine, provably well, and run it.

    \b
    tpplan profile --device cpu:0 --device cpu:1
    tpplan solve model.gguf
    tpplan run --prompt "Why is the sky blue?"
    """


class Interrupts:
    """Ctrl-C while this is entered, remembered: libraries swallow it or turn it into errors of their own.

    Afterwards ctrl-C ends the process silently. Where it was ignored from the start (nohup), it stays so.
    """

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> None:
        self._set(self._interrupt)

    def __exit__(self, *_: object) -> None:
        self._set(signal.SIG_DFL)

    def _set(self, handler: Any) -> None:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, handler)

    def _interrupt(self, *_: object) -> NoReturn:
        self.seen = True
        raise KeyboardInterrupt


def main() -> NoReturn:
    """Runs the command line and exits."""
    interrupts = Interrupts()
    try:
        with interrupts:
            _open_streams()
            code = commands.main(prog_name="tpplan", standalone_mode=False)
            sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except Exception as error:
        code = 130 if interrupts.seen else _report(error)
    _leave(code)


def _open_streams() -> None:
    """Streams that were closed lead nowhere, so that no file takes their place; what cannot be encoded becomes `?`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _report(error: Exception) -> int:
    """Tells what went wrong and returns the exit code; raises `error` itself if TPPLAN_DEBUG=1."""
    from ..planner.errors import Infeasible

    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if os.environ.get("TPPLAN_DEBUG") == "1":
        raise error
    if not isinstance(error, BrokenPipeError):
        print(f"tpplan: {_line(error)}", file=sys.stderr)
    return 3 if isinstance(error, Infeasible) else 1


def _line(error: Exception) -> str:
    """What went wrong, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        return f"cannot import {error.name or 'a package'}: {text}; `tpplan doctor` says what is missing"
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):  # files are named, stdout is not
        return f"{error.filename or 'standard output'}: {error.strerror}"
    if isinstance(error, (ValueError, OSError, RuntimeError, MemoryError)):
        return text
    return f"internal error: {type(error).__name__}: {text[:300]}; TPPLAN_DEBUG=1 shows where"


def _leave(code: int | None) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:  # a reader that left, a full disk: told already, and told again at exit unless it leads elsewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
