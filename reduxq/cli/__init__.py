"""The command line of those who use a service."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from reduxq.cli.batch import Misuse, batching
from reduxq.cli.jobs import jobs
from reduxq.cli.login import login
from reduxq.errors import ReduxqError, Unauthorized

EXIT_CODES: Final = {Misuse: 2, Unauthorized: 3}  #: 1 for what is not here

customers = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Image variations. Exit codes: 0 done, 1 something failed, 2 wrong usage, 3 no valid API key, 130 Ctrl-C.",
)
customers.add_typer(jobs)
customers.add_typer(batching)
customers.command()(login)


def main() -> None:
    """Run the command line."""
    with one_line():
        customers()


@contextmanager
def one_line() -> Iterator[None]:
    """Say each error of ours on one line and exit as documented."""
    try:
        yield
    except ReduxqError as error:
        print(f"reduxq: {error.message}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_CODES.get(type(error), 1))
    except OSError as error:
        sys.exit(f"reduxq: {error.filename}: {error.strerror}" if error.filename else f"reduxq: {error}")
