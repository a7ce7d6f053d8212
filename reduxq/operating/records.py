"""What the operators' commands have in common: which records server they speak to, and their tables."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import redis
import typer
from rich.console import Console
from rich.table import Table

from reduxq.cli.telling import say
from reduxq.local.folder import read_stack
from shared.connections import connect, run
from shared.programs import Program
from shared.settings import load_settings

T = TypeVar("T")
Told = dict[str, Any]  #: what scripts are told of a thing
FOLDED: Final = frozenset({"team", "user", "why"})  #: columns whose length nobody limits

DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of a running local stack.")]


def records_of(data: Path | None) -> redis.Redis:
    """Return a client of a local stack's records server, or of the settings'."""
    return connect(str(read_stack(data)["redis_url"]) if data else load_settings().records.url.get_secret_value())


def run_there(data: Path | None, program: Program[T]) -> T:
    """Run one program on that server."""
    with records_of(data) as records:
        return run(records, program)


def print_found(
    titles: Iterable[str], found: Iterable[tuple[Told, tuple[str, ...]]], *, as_json: bool, least_width: int = 0
) -> None:
    """Print things as objects for scripts, or as rows within the terminal's width or this many characters."""
    table = Table(box=None)
    for title in titles:
        table.add_column(title, no_wrap=title not in FOLDED, overflow="fold")
    for told, row in found:
        table.add_row(*row)
        if as_json:
            say(told, "", as_json=True)
    if not as_json:
        console = Console(markup=False, highlight=False)
        console.width = max(console.width, least_width)
        console.print(table)
