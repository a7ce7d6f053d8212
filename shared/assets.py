"""Who owns which stored image. The records server knows it; the bucket does not."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from shared.ids import AssetKey, TeamId, UserId
from shared.programs import Command, Program


class Asset(BaseModel):
    """A stored image: an uploaded source, or a variation, which may be varied again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: AssetKey
    team_id: TeamId
    user_id: UserId
    content_type: str
    size_bytes: int
    created_at: datetime
    stored: bool = False  #: False: only its key is reserved


def reserve(asset: Asset) -> Program[bool]:
    """Take the key for its owner before anything is written there; False if it is taken."""
    return (yield ("SET", _place(asset.key), asset.model_dump_json(), "NX")) is not None


def keep(asset: Asset) -> Command:
    """Return the command that says that the asset's object is in the bucket."""
    return ("SET", _place(asset.key), asset.model_copy(update={"stored": True}).model_dump_json())


def confirm(asset: Asset) -> Program[None]:
    """Say that the asset's object is in the bucket."""
    yield keep(asset)


def release(key: AssetKey) -> Program[None]:
    """Give a key back whose object was not written."""
    yield ("DEL", _place(key))


def find(key: AssetKey, team_id: TeamId) -> Program[Asset | None]:
    """Return a team's stored asset; another team's is as one that does not exist."""
    text = yield ("GET", _place(key))
    asset = Asset.model_validate_json(text) if text else None
    return asset if asset and asset.stored and asset.team_id == team_id else None


def _place(key: AssetKey) -> str:
    return f"asset:{key}"
