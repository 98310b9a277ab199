"""What commands print: one JSON object or tables on stdout, everything else on stderr.

Knows the screen. Knows nothing of what is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..hwprofiles.units import Table

WIDTH = 160
"""Of tables, at most; a narrower terminal breaks lines, which keeps figures whole where narrower columns would not."""


def emit(value: Any) -> None:
    """Prints `value` as one JSON object on stdout, in UTF-8 whatever the locale."""
    import msgspec

    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")


def note(text: str) -> None:
    """Prints a line on stderr."""
    print(text, file=sys.stderr)


@contextmanager
def loading_bar(total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while weights load, told bytes as they come from any thread; nothing where nobody watches. Once
    all are there it says that kernels are made ready, which takes GPUs a minute the first time.
    """
    if not sys.stderr.isatty():
        yield lambda loaded_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=total_bytes)

        def progress(loaded_bytes: int) -> None:
            bar.advance(task, loaded_bytes)
            if bar.tasks[0].completed >= total_bytes:
                bar.update(task, description="making kernels ready")

        yield progress


def print_tables(tables: Iterable[Table], file: TextIO | None = None) -> None:
    """Prints tables on stdout, or on `file`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=file or sys.stdout, width=WIDTH)
    for title, columns, rows in tables:
        table = RichTable(
            title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False
        )
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=not index, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        console.print()


def print_lines(lines: Iterable[str], bullet: str = "- ") -> None:
    """Prints a list on stdout: broken between words on a terminal, a line each elsewhere."""
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size().columns, WIDTH) if sys.stdout.isatty() else 0
    for line in lines:
        broken = textwrap.wrap(line, width - len(bullet), break_long_words=False) if width > 20 else [line]
        print(bullet + f"\n{' ' * len(bullet)}".join(broken))


class Progress:
    """Shows how far long work is, on stderr: one changing line on a terminal, a line for each tenth elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._tenth = -1

    def __call__(self, task: str, fraction: float) -> None:
        """`fraction` of the whole work is done and `task` comes next."""
        if self._live:
            print(f"\r\x1b[K{fraction:4.0%} {task}", end="", file=sys.stderr, flush=True)
        elif int(fraction * 10) > self._tenth:
            print(f"{fraction:4.0%} {task}", file=sys.stderr, flush=True)
            self._tenth = int(fraction * 10)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
