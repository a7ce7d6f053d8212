"""Accounts on the command line: those of the settings' records server, or of a local stack."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from reduxq.folder import read_stack
from shared.keys import ApiKey, create_key, list_keys, revoke_key, rotate_key
from shared.programs import Program, connect, run
from shared.settings import load_settings
from shared.teams import STARTING_CREDIT, create_team, list_teams, set_credit, set_limit

T = TypeVar("T")
MOST: Final = 10**15  #: credits; far below what the records server can count
MINUTE: Final = "%Y-%m-%d %H:%M"

teams = typer.Typer(no_args_is_help=True, help="Teams, of the settings' records server or of a local stack.")
keys = typer.Typer(no_args_is_help=True, help="API keys, of the settings' records server or of a local stack.")

DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of a running local stack.")]
ExpiresOption = Annotated[int | None, typer.Option("--expires-days", min=1, max=36_500, help="Days until it expires.")]
KeyArgument = Annotated[str, typer.Argument(help="As `keys list` shows it.")]
TeamArgument = Annotated[str, typer.Argument(help="Name of the team.")]


@teams.command("create")
def add_team(
    name: TeamArgument,
    credit: Annotated[int, typer.Option(min=0, max=MOST, help="Credits that it may spend.")] = STARTING_CREDIT,
    data: DataOption = None,
) -> None:
    """Make a team."""
    _run(data, create_team(name, credit))


@teams.command("list")
def show_teams(data: DataOption = None) -> None:
    """List all teams with the credits that they have left."""
    rows = ((team.name, f"{team.credit}", f"{team.created_at:{MINUTE}}") for team in _run(data, list_teams()))
    _print_table(("team", "credits left", "created (UTC)"), rows)


@teams.command("set-credit", context_settings={"ignore_unknown_options": True})  # -5 is a number, not an option
def change_credit(
    name: TeamArgument,
    credit: Annotated[int, typer.Argument(min=0, max=MOST, help="Credits to spend from now on, or the user's limit.")],
    user: Annotated[str | None, typer.Option(help="Limit what this user may use in all, so far included.")] = None,
    data: DataOption = None,
) -> None:
    """Set what a team has left to spend, or limit one of its users."""
    _run(data, set_credit(name, credit) if user is None else set_limit(name, user, credit))


@keys.command("create")
def add_key(
    team: Annotated[str, typer.Option(help="Who pays; made if it does not exist.")],
    user: Annotated[str, typer.Option(help="Who in the team; made if it does not exist.")] = "default",
    expires_days: ExpiresOption = None,
    data: DataOption = None,
) -> None:
    """Make a key and print it: the only time that it is shown."""
    typer.echo(_run(data, create_key(team, user, lasts=_days(expires_days))))


@keys.command("list")
def show_keys(data: DataOption = None) -> None:
    """List all keys with when they end or ended."""
    rows = ((key.id, key.team_name, key.user_name, *_life(key)) for key in _run(data, list_keys()))
    _print_table(("id", "team", "user", "created", "ends (UTC)", "state"), rows)


@keys.command("revoke")
def end_key(key_id: KeyArgument, data: DataOption = None) -> None:
    """End a key at once."""
    _run(data, revoke_key(key_id))


@keys.command("rotate")
def replace_key(
    key_id: KeyArgument,
    overlap_hours: Annotated[int, typer.Option(min=0, max=8_760, help="Hours that the old key still works.")] = 24,
    expires_days: ExpiresOption = None,
    data: DataOption = None,
) -> None:
    """Make the key's successor and print it: the only time that it is shown."""
    program = rotate_key(key_id, overlap=timedelta(hours=overlap_hours), lasts=_days(expires_days))
    typer.echo(_run(data, program))


def _run(data: Path | None, program: Program[T]) -> T:
    url = str(read_stack(data)["redis_url"]) if data else load_settings().records.url.get_secret_value()
    with connect(url) as records:
        return run(records, program)


def _days(count: int | None) -> timedelta | None:
    return None if count is None else timedelta(days=count)


def _life(key: ApiKey) -> tuple[str, str, str]:
    ends_at = key.revoked_at or key.expires_at
    state = "valid" if key.valid else "revoked" if key.revoked_at else "expired"
    return f"{key.created_at:%Y-%m-%d}", f"{ends_at:{MINUTE}}" if ends_at else "", state


def _print_table(titles: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows within the terminal's width; only names, whose length nobody limits, are folded."""
    table = Table(box=None)
    for title in titles:
        table.add_column(title, no_wrap=title not in {"team", "user"}, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
