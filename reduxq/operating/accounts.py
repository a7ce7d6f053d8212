"""Accounts on the command line: those of the settings' records server, or of a local stack."""

from datetime import timedelta
from typing import Annotated, Final

import typer

from reduxq.operating.records import DataOption, print_table, run_there
from shared.keys import ApiKey, create_key, list_keys, revoke_key, rotate_key
from shared.teams import STARTING_CREDIT, create_team, list_teams, set_credit, set_limit, webhook_secret_of

MOST: Final = 10**15  #: credits; far below what the records server can count
MINUTE: Final = "%Y-%m-%d %H:%M"

teams = typer.Typer(no_args_is_help=True, help="Teams, of the settings' records server or of a local stack.")
keys = typer.Typer(no_args_is_help=True, help="API keys, of the settings' records server or of a local stack.")

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
    run_there(data, create_team(name, credit))


@teams.command("list")
def show_teams(data: DataOption = None) -> None:
    """List all teams with the credits that they have left."""
    rows = ((team.name, f"{team.credit}", f"{team.created_at:{MINUTE}}") for team in run_there(data, list_teams()))
    print_table(("team", "credits left", "created (UTC)"), rows)


@teams.command("set-credit", context_settings={"ignore_unknown_options": True})  # -5 is a number, not an option
def change_credit(
    name: TeamArgument,
    credit: Annotated[int, typer.Argument(min=0, max=MOST, help="Credits to spend from now on, or the user's limit.")],
    user: Annotated[str | None, typer.Option(help="Limit what this user may use in all, so far included.")] = None,
    data: DataOption = None,
) -> None:
    """Set what a team has left to spend, or limit one of its users."""
    run_there(data, set_credit(name, credit) if user is None else set_limit(name, user, credit))


@teams.command("webhook-secret")
def show_webhook_secret(
    name: TeamArgument,
    *,
    rotate: Annotated[bool, typer.Option("--rotate", help="Draw a new one; the old one signs nothing more.")] = False,
    data: DataOption = None,
) -> None:
    """Print what the team's webhooks are signed with, as Standard Webhooks libraries take it."""
    typer.echo(run_there(data, webhook_secret_of(name, rotate=rotate)))


@keys.command("create")
def add_key(
    team: Annotated[str, typer.Option(help="Who pays; made if it does not exist.")],
    user: Annotated[str, typer.Option(help="Who in the team; made if it does not exist.")] = "default",
    expires_days: ExpiresOption = None,
    data: DataOption = None,
) -> None:
    """Make a key and print it: the only time that it is shown."""
    typer.echo(run_there(data, create_key(team, user, lasts=_days(expires_days))))


@keys.command("list")
def show_keys(data: DataOption = None) -> None:
    """List all keys with when they end or ended."""
    rows = ((key.id, key.team_name, key.user_name, *_life(key)) for key in run_there(data, list_keys()))
    print_table(("id", "team", "user", "created", "ends (UTC)", "state"), rows)


@keys.command("revoke")
def end_key(key_id: KeyArgument, data: DataOption = None) -> None:
    """End a key at once."""
    run_there(data, revoke_key(key_id))


@keys.command("rotate")
def replace_key(
    key_id: KeyArgument,
    overlap_hours: Annotated[int, typer.Option(min=0, max=8_760, help="Hours that the old key still works.")] = 24,
    expires_days: ExpiresOption = None,
    data: DataOption = None,
) -> None:
    """Make the key's successor and print it: the only time that it is shown."""
    program = rotate_key(key_id, overlap=timedelta(hours=overlap_hours), lasts=_days(expires_days))
    typer.echo(run_there(data, program))


def _days(count: int | None) -> timedelta | None:
    return None if count is None else timedelta(days=count)


def _life(key: ApiKey) -> tuple[str, str, str]:
    ends_at = key.revoked_at or key.expires_at
    state = "valid" if key.valid else "revoked" if key.revoked_at else "expired"
    return f"{key.created_at:%Y-%m-%d}", f"{ends_at:{MINUTE}}" if ends_at else "", state
