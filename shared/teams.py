"""Teams with their users and what they may spend.

A team has a stock of credits that all its users draw from; each user has a limit of its own besides. Both are kept as
what is left, so that one number decides; a job's price leaves them at acceptance, and what was not used comes back at
its end.
"""

from datetime import UTC, datetime
from itertools import chain
from typing import Final, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from shared.errors import InsufficientCredits, InvalidRequest, NotFound, ReduxqError
from shared.ids import TeamId, UserId
from shared.programs import Bounds, Command, Guard, Program, commit
from shared.webhooks import new_secret

STARTING_CREDIT: Final = 100_000_000  #: of a team, and limit of each of its users; 100 USD at the default rate
Value = TypeVar("Value", bound=BaseModel)
NAMES: Final = "team_ids"  #: hash of team ids by name
SIGNING: Final = "webhook_secret"  #: field of a team's hash


class Team(BaseModel):
    """Who pays."""

    model_config = ConfigDict(frozen=True)

    id: TeamId
    name: str
    credit: int  #: left to spend
    created_at: datetime


class TeamUser(BaseModel):
    """A user in a team."""

    model_config = ConfigDict(frozen=True)

    team_id: TeamId
    user_id: UserId
    user_name: str
    role: str  #: ADMIN for a team's first user, MEMBER for the others
    credit_limit: int
    credit_left: int
    created_at: datetime
    updated_at: datetime

    @property
    def used_credit(self) -> int:
        """Credits used, those of open jobs included."""
        return self.credit_limit - self.credit_left


def create_team(name: str, credit: int) -> Program[None]:
    """Make a team.

    Raises:
        InvalidRequest: If there is one of that name.
    """
    if not (yield from _add_team(name, credit)):
        raise InvalidRequest(f"there is a team {name!r} already")


def ensure_user(team_name: str, user_name: str) -> Program[TeamUser]:
    """Return the user of that name in the team of that name; either is made if it does not exist."""
    yield from _add_team(team_name, STARTING_CREDIT)
    team_id = yield from _team_id(team_name)
    users, now = _users(team_id), datetime.now(UTC)
    new = TeamUser(
        team_id=team_id,
        user_id=UserId(str(uuid4())),
        user_name=user_name,
        role="MEMBER" if (yield ("HLEN", users)) else "ADMIN",
        credit_limit=STARTING_CREDIT,
        credit_left=STARTING_CREDIT,
        created_at=now,
        updated_at=now,
    )
    yield from _add(users, user_name, new.user_id, _user(new.user_id), new)
    return (yield from get_user(UserId((yield ("HGET", users, user_name)))))


def get_user(user_id: UserId) -> Program[TeamUser]:
    """Return a user with what it has used so far; NotFound if there is none."""
    return _read(TeamUser, _user(user_id))


def get_team(team_id: TeamId) -> Program[Team]:
    """Return a team with what it has left; NotFound if there is none."""
    return _read(Team, _team(team_id))


def list_teams() -> Program[list[Team]]:
    """Return all teams by name."""
    teams = []
    for _, team_id in sorted((yield ("HGETALL", NAMES)).items()):
        teams.append((yield from get_team(team_id)))
    return teams


def set_credit(team_name: str, credit: int) -> Program[None]:
    """Give a team this many credits to spend from now on.

    Raises:
        NotFound: If there is no such team.
    """
    team_id = yield from _team_id(team_name)
    yield ("HSET", _team(team_id), "credit", credit)


def set_limit(team_name: str, user_name: str, limit: int) -> Program[None]:
    """Limit what a user may use of the team's credits in all; what was used so far counts.

    Raises:
        NotFound: If there is no such user.
    """
    team_id = yield from _team_id(team_name)
    user_id = yield ("HGET", _users(team_id), user_name)
    if user_id is None:
        raise NotFound(f"there is no user {user_name!r} in the team {team_name!r}")
    place = _user(UserId(user_id))
    while True:
        before = yield ("HGET", place, "credit_limit")
        change = [("HSET", place, "credit_limit", limit), ("HINCRBY", place, "credit_left", limit - int(before))]
        if (yield from commit([Guard(("HGET", place, "credit_limit"), before)], change)):
            return


def webhook_secret(team_id: TeamId) -> Program[str]:
    """Return what a team's webhooks are signed with; it is drawn when it is first asked for."""
    read = ("HGET", _team(team_id), SIGNING)
    if not (yield read):
        yield from commit([Guard(read, "")], [("HSET", _team(team_id), SIGNING, new_secret())])
    return str((yield read))


def webhook_secret_of(team_name: str, *, rotate: bool) -> Program[str]:
    """As :func:`webhook_secret`, by the team's name; ``rotate`` ends the old one at once.

    Raises:
        NotFound: If there is no such team.
    """
    team_id = yield from _team_id(team_name)
    if rotate:
        yield ("HDEL", _team(team_id), SIGNING)
    return (yield from webhook_secret(team_id))


def affords(team_id: TeamId, user_id: UserId, price: int) -> list[Bounds]:
    """Return what must hold for a user to spend a team's credits."""
    return [
        Bounds(("HGET", _team(team_id), "credit"), least=price),
        Bounds(("HGET", _user(user_id), "credit_left"), least=price),
    ]


def spend(team_id: TeamId, user_id: UserId, price: int, at: datetime) -> list[Command]:
    """Return the commands that take a price away; a negative one comes back."""
    return [
        ("HINCRBY", _team(team_id), "credit", -price),
        ("HINCRBY", _user(user_id), "credit_left", -price),
        ("HSET", _user(user_id), "updated_at", at.isoformat()),
    ]


def explain_refusal(team_id: TeamId, user_id: UserId, price: int) -> Program[ReduxqError]:
    """Return the error that says why a price could not be paid."""
    team = yield from get_team(team_id)
    user = yield from get_user(user_id)
    who, left = f"{team.name} team", team.credit
    if user.credit_left < left:
        # A limit may have been set below what was used.
        who, left = f"user {user.user_name} of the {team.name} team", max(0, user.credit_left)
    return InsufficientCredits(f"The feature requires {price} credits, but the {who} only has {left} credits")


def _add_team(name: str, credit: int) -> Program[bool]:
    team = Team(id=TeamId(str(uuid4())), name=name, credit=credit, created_at=datetime.now(UTC))
    return _add(NAMES, name, team.id, _team(team.id), team)


def _add(names: str, name: str, new_id: str, place: str, value: BaseModel) -> Program[bool]:
    """Store a value together with its name; return False if the name is taken."""
    fields = chain.from_iterable(value.model_dump(mode="json").items())
    return commit([Guard(("HGET", names, name), "")], [("HSET", names, name, new_id), ("HSET", place, *fields)])


def _read(kind: type[Value], place: str) -> Program[Value]:
    fields = yield ("HGETALL", place)
    if not fields:
        raise NotFound(f"there is no {place.replace(':', ' ')}")
    return kind.model_validate(fields)


def _team_id(name: str) -> Program[TeamId]:
    team_id = yield ("HGET", NAMES, name)
    if team_id is None:
        raise NotFound(f"there is no team {name!r}")
    return TeamId(team_id)


def _team(team_id: TeamId) -> str:
    return f"team:{team_id}"


def _users(team_id: TeamId) -> str:
    return f"team:{team_id}:users"


def _user(user_id: UserId) -> str:
    return f"user:{user_id}"
