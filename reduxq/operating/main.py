"""The command line of an installation: its operators' commands and the local stack."""

import sys

import typer

from reduxq.cli import customers, one_line
from reduxq.cli.telling import JsonOption, say
from reduxq.local.commands import local
from reduxq.operating.accounts import keys, teams
from reduxq.operating.doctor import doctor
from reduxq.operating.jobs import jobs
from shared.errors import ReduxqError
from shared.settings import all_settings, settings_table

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(customers)
app.add_typer(local)
app.add_typer(teams, name="teams")
app.add_typer(keys, name="keys")
app.add_typer(jobs, name="jobs")
app.command()(doctor)


def main() -> None:
    """Run the command line; every error of ours is one line."""
    try:
        with one_line():
            app()
    except ReduxqError as error:
        sys.exit(f"reduxq: {error.message}")


@app.command()
def settings(*, as_json: JsonOption = False) -> None:
    """Print every setting, as a Markdown table."""
    if as_json:
        for setting in all_settings():
            say(setting._asdict(), "", as_json=True)
    else:
        typer.echo(settings_table())
