"""Keeping a key, so that no command line has to name it."""

import sys
from typing import Annotated

import typer

from reduxq.cli.telling import JsonOption, say
from reduxq.client import Client
from reduxq.config import LOCAL, Access, save_access


def login(
    *,
    url: Annotated[str, typer.Option(envvar="REDUXQ_URL", help="The service.")] = LOCAL,
    as_json: JsonOption = False,
) -> None:
    """Keep the service's URL and a key, asked for or read from standard input, in a file that you alone can read."""
    prompted = sys.stdin.isatty()
    api_key = typer.prompt("API key", hide_input=True, err=True) if prompted else sys.stdin.readline().strip()
    with Client(url, api_key) as client:
        next(client.jobs.list(limit=1), None)  # a key that is not valid is said now
    place = str(save_access(Access(url, api_key)))
    say({"url": url, "file": place}, f"Kept in {place}", as_json=as_json)
