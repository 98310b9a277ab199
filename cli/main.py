"""The `tpplan` command: finds the subcommand, and turns every outcome into an exit code and one clear line.

0 done, 1 user error, 2 usage, 3 nothing fits, 130 ctrl-C. A subcommand's module is imported only when it is called.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from .. import __version__

SUMMARIES = {
    "profile": "Measure the devices of this machine.",
    "solve": "Find the fastest split of a model over those devices.",
    "run": "Generate text with the split model.",
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


def main() -> NoReturn:
    """Runs the command line and exits."""
    try:
        code = commands.main(prog_name="tpplan", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if os.environ.get("TPPLAN_DEBUG") == "1":
            raise
        code = _report(error)
    _leave(code)


def _report(error: Exception) -> int:
    from ..planner.errors import Infeasible

    if not isinstance(error, BrokenPipeError):
        print(f"tpplan: {one_line(error)}", file=sys.stderr)
    return 3 if isinstance(error, Infeasible) else 1


def one_line(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _leave(code: int | None) -> NoReturn:
    try:
        sys.stdout.flush()
    except (
        OSError
    ):  # a reader that left, a full disk: already told, and told again at exit unless stdout goes elsewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
