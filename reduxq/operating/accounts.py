"""Accounts on the command line: those of the settings' records server, or of a local stack."""

from datetime import timedelta
from typing import Annotated, Final

import typer

from reduxq.cli.telling import JsonOption, say
from reduxq.operating.records import DataOption, print_found, run_there
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
    *,
    credit: Annotated[int, typer.Option(min=0, max=MOST, help="Credits that it may spend.")] = STARTING_CREDIT,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Make a team."""
    run_there(data, create_team(name, credit))
    say({"team": name, "credit": credit}, "", as_json=as_json)


@teams.command("list")
def show_teams(*, as_json: JsonOption = False, data: DataOption = None) -> None:
    """List all teams with the credits that they have left."""
    found = (
        (team.model_dump(mode="json"), (team.name, f"{team.credit}", f"{team.created_at:{MINUTE}}"))
        for team in run_there(data, list_teams())
    )
    print_found(("team", "credits left", "created (UTC)"), found, as_json=as_json)


@teams.command("set-credit", context_settings={"ignore_unknown_options": True})  # -5 is a number, not an option
def change_credit(
    name: TeamArgument,
    credit: Annotated[int, typer.Argument(min=0, max=MOST, help="Credits to spend from now on, or the user's limit.")],
    *,
    user: Annotated[str | None, typer.Option(help="Limit what this user may use in all, so far included.")] = None,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Set what a team has left to spend, or limit one of its users."""
    run_there(data, set_credit(name, credit) if user is None else set_limit(name, user, credit))
    say({"team": name, "user": user, "credit": credit}, "", as_json=as_json)


@teams.command("webhook-secret")
def show_webhook_secret(
    name: TeamArgument,
    *,
    rotate: Annotated[bool, typer.Option("--rotate", help="Draw a new one; the old one signs nothing more.")] = False,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print what the team's webhooks are signed with, as Standard Webhooks libraries take it."""
    secret = run_there(data, webhook_secret_of(name, rotate=rotate))
    say({"team": name, "secret": secret}, secret, as_json=as_json)


@keys.command("create")
def add_key(
    *,
    team: Annotated[str, typer.Option(help="Who pays; made if it does not exist.")],
    user: Annotated[str, typer.Option(help="Who in the team; made if it does not exist.")] = "default",
    expires_days: ExpiresOption = None,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Make a key and print it: the only time that it is shown."""
    key = run_there(data, create_key(team, user, lasts=_days(expires_days)))
    say({"key": key}, key, as_json=as_json)


@keys.command("list")
def show_keys(*, as_json: JsonOption = False, data: DataOption = None) -> None:
    """List all keys with when they end or ended."""
    found = (
        (key.model_dump(mode="json", exclude={"digest"}), (key.id, key.team_name, key.user_name, *_life(key)))
        for key in run_there(data, list_keys())
    )
    print_found(("id", "team", "user", "created", "ends (UTC)", "state"), found, as_json=as_json)


@keys.command("revoke")
def end_key(key_id: KeyArgument, *, as_json: JsonOption = False, data: DataOption = None) -> None:
    """End a key at once."""
    run_there(data, revoke_key(key_id))
    say({"id": key_id}, "", as_json=as_json)


@keys.command("rotate")
def replace_key(
    key_id: KeyArgument,
    *,
    overlap_hours: Annotated[int, typer.Option(min=0, max=8_760, help="Hours that the old key still works.")] = 24,
    expires_days: ExpiresOption = None,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Make the key's successor and print it: the only time that it is shown."""
    program = rotate_key(key_id, overlap=timedelta(hours=overlap_hours), lasts=_days(expires_days))
    key = run_there(data, program)
    say({"key": key}, key, as_json=as_json)


def _days(count: int | None) -> timedelta | None:
    return None if count is None else timedelta(days=count)


def _life(key: ApiKey) -> tuple[str, str, str]:
    ends_at = key.revoked_at or key.expires_at
    state = "valid" if key.valid else "revoked" if key.revoked_at else "expired"
    return f"{key.created_at:%Y-%m-%d}", f"{ends_at:{MINUTE}}" if ends_at else "", state
