"""Records and pictures as tests need them."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from uuid import uuid4

import redis
from PIL import Image, ImageChops

from shared.ids import AssetKey, JobId, TeamId, UserId
from shared.jobs import Echo, JobRecord, ModelIdentity, Parameters, Variation
from shared.teams import Team, TeamUser
from shared.transitions import claim

PRICE = 1000  #: credits, whatever the parameters
NOW = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
MODEL = ModelIdentity(base="base", redux="redux", trained=False)


def record(created_at: datetime = NOW, **parameters: Any) -> JobRecord:
    chosen = {"source": AssetKey("images/source.png"), "seed": 7} | parameters
    return JobRecord(
        id=JobId(str(uuid4())),
        team_id=TeamId("team"),
        user_id=UserId("user"),
        parameters=Parameters(**chosen),
        echo=Echo(type="IMAGE_VARIATOR", model="m", prompt_object='{"imageUrl": "images/source.png"}', request_id="r"),
        price=PRICE,
        created_at=created_at,
    )


def fund(records: redis.Redis, team_credit: int = 1_000_000, user_credit: int = 1_000_000) -> None:
    """Give the team and the user of :func:`record` something to spend."""
    team = Team(id=TeamId("team"), name="lab", credit=team_credit, created_at=NOW)
    user = TeamUser(
        team_id=team.id,
        user_id=UserId("user"),
        user_name="Ada",
        role="ADMIN",
        credit_limit=user_credit,
        credit_left=user_credit,
        created_at=NOW,
        updated_at=NOW,
    )
    for place, value in (("team:team", team), ("user:user", user)):
        fields: Any = value.model_dump(mode="json")
        records.hset(place, mapping=fields)


def start(job: JobRecord) -> JobRecord:
    """Claim as a worker does; each call is another claim."""
    return claim(job, now=NOW, prefix="", digits=random.sample(range(1_000_000), k=4))


def variations_of(job: JobRecord) -> tuple[Variation, ...]:
    return tuple(
        Variation(key=key, seed=seed, content_type="image/webp", size_bytes=10)
        for key, seed in zip(job.planned_keys, job.parameters.seeds, strict=True)
    )


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """Something with structure in every channel."""
    across = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (across, across.rotate(180), Image.radial_gradient("L").resize((width, height))))


def alike(some: Iterable[Image.Image], others: Iterable[Image.Image]) -> float:
    """Return the share of values of all these pictures that differ by one level of 255 at most."""
    pairs = zip(some, others, strict=True)
    differences = b"".join(ImageChops.difference(one, other).tobytes() for one, other in pairs)
    return (differences.count(0) + differences.count(1)) / len(differences)


def opened(file: bytes) -> Image.Image:
    return Image.open(BytesIO(file))


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()
