"""Teams with their users, as the answers report them."""

from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from shared.errors import NotFound
from shared.ids import TeamId, UserId
from shared.programs import Program

CREDIT_LIMIT: Final = 100_000_000  #: credits a new user may use (100 USD); reported, not yet enforced


class TeamUser(BaseModel):
    """A user in a team."""

    model_config = ConfigDict(frozen=True)

    team_id: TeamId
    user_id: UserId
    user_name: str
    credit_limit: int
    used_credit: int  #: raised when a job succeeds, by its price
    created_at: datetime


def ensure_user(team_name: str, user_name: str) -> Program[TeamUser]:
    """Return the user of that name in the team of that name; either is made if it does not exist."""
    yield ("HSETNX", "teams", team_name, str(uuid4()))
    team_id = TeamId((yield ("HGET", "teams", team_name)))
    yield ("HSETNX", f"team:{team_id}:users", user_name, str(uuid4()))
    user_id = UserId((yield ("HGET", f"team:{team_id}:users", user_name)))
    new = TeamUser(
        team_id=team_id,
        user_id=user_id,
        user_name=user_name,
        credit_limit=CREDIT_LIMIT,
        used_credit=0,
        created_at=datetime.now(UTC),
    )
    for name, value in new.model_dump(mode="json").items():
        yield ("HSETNX", _place(user_id), name, value)
    return (yield from get_user(user_id))


def get_user(user_id: UserId) -> Program[TeamUser]:
    """Return a user with what it has used so far.

    Raises:
        NotFound: If there is none.
    """
    fields = yield ("HGETALL", _place(user_id))
    if not fields:
        raise NotFound(f"there is no user {user_id}")
    return TeamUser.model_validate(fields)


def _place(user_id: UserId) -> str:
    return f"user:{user_id}"
