"""Records and assets as 1min.ai's clients read them."""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from pydantic_core import from_json

from shared.assets import Asset
from shared.cost import PRICED_PIXELS, PRICED_STEPS, USD_PER_VARIATION
from shared.images import ImageType
from shared.job_store import Report
from shared.jobs import Delivery, JobRecord, JobStatus, Lane, Parameters, Told
from shared.object_store import ObjectStore
from shared.settings import Settings
from shared.sizes import AspectRatio, Megapixels, size_of
from shared.teams import TeamUser
from shared.webhooks import message_id

MODEL: Final = "black-forest-labs/flux-redux-dev"
TYPE: Final = "IMAGE_VARIATOR"
STATUSES: Final = {
    JobStatus.QUEUED: "PROCESSING",
    JobStatus.RUNNING: "PROCESSING",
    JobStatus.SUCCEEDED: "SUCCESS",
    JobStatus.FAILED: "FAILURE",
    JobStatus.CANCELED: "FAILURE",
}


def ai_record(report: Report, user: TeamUser, objects: ObjectStore) -> dict[str, Any]:
    """Return ``{"aiRecord": ...}``; its links are signed now."""
    record = report.record
    urls = [objects.sign(variation.key) for variation in record.variations]
    view = {
        "uuid": record.id,
        "userId": record.user_id,
        "teamId": record.team_id,
        "teamUser": _team_user(user),
        "model": record.echo.model,
        "type": record.echo.type,
        "metadata": from_json(record.echo.metadata),
        "rating": None,
        "feedback": None,
        "conversationId": record.echo.conversation_id,
        "status": STATUSES[record.status],
        "createdAt": instant(record.created_at),
        "aiRecordDetail": {
            "promptObject": from_json(record.echo.prompt_object),
            "resultObject": _result_object(record),
            "responseObject": {},
        },
        "additionalData": _additional_data(report, urls),
        "temporaryUrl": urls[0] if urls else None,
    }
    return {"aiRecord": view}


def _team_user(user: TeamUser) -> dict[str, Any]:
    return {
        "teamId": user.team_id,
        "userId": user.user_id,
        "userName": user.user_name,
        "userAvatar": None,
        "status": "ACTIVE",
        "role": user.role,
        "creditLimit": user.credit_limit,
        "usedCredit": user.used_credit,
        "createdAt": instant(user.created_at),
        "createdBy": "SYSTEM",
        "updatedAt": instant(user.updated_at),
        "updatedBy": "SYSTEM",
    }


def _result_object(record: JobRecord) -> list[str] | dict[str, str]:
    if record.failure:
        return record.failure.model_dump()
    return [variation.key for variation in record.variations]


def _additional_data(report: Report, urls: list[str]) -> dict[str, Any]:
    record = report.record
    return {
        "source": record.parameters.source,
        "temporaryUrls": urls,
        "parameters": _parameters(record.parameters),
        "seeds": record.parameters.seeds,
        "flagged": [flagged.model_dump() for flagged in record.flagged],
        "safetyChecker": _safety_checker(record),
        "attempt": record.attempt,
        "queuePosition": report.queue_position,
        "progress": report.progress._asdict() if report.progress else None,
        "estimatedSeconds": report.estimated_seconds,
        "priority": "low" if record.lane is Lane.LOW else "normal",
        "price": {"credits": record.price, "charged": record.charged, "usd": float(record.parameters.usd)},
        "timings": _timings(record),
        "model": record.model.model_dump() if record.model else None,
        "requestId": record.echo.request_id,
        "user": record.echo.end_user,
        "webhook": _webhook(record),
        "deletedAt": instant(record.erased_at) if record.erased_at else None,
    }


def _parameters(chosen: Parameters) -> dict[str, Any]:
    """Return what the job really is made with, whatever names and defaults the request had, as promptObject says it."""
    named = chosen.model_dump(mode="json", exclude={"source", "guidance_scale"})
    return {"format": named.pop("output_format"), **named}


def _safety_checker(record: JobRecord) -> str | None:
    """Return who checked the variations; None before anybody did."""
    if record.parameters.disable_safety_checker:
        return "disabled"
    return record.model.safety_checker if record.model else None


def _webhook(record: JobRecord) -> dict[str, Any] | None:
    """Return whom the job tells of what, and how that went so far."""
    if record.webhook is None:
        return None
    deliveries = [delivery_shown(record, told) for told in record.deliveries]
    return {**record.webhook.model_dump(mode="json"), "deliveries": deliveries}


def delivery_shown(subject: Told, told: Delivery) -> dict[str, Any]:
    """Return how telling a webhook of an event went so far."""
    return {
        "event": told.event,
        "id": message_id(subject.id, told),
        "delivered": told.delivered,
        "nextAt": instant(told.next_at) if told.next_at else None,
        "calls": [{"at": instant(call.at), "outcome": call.outcome} for call in told.calls],
    }


def _timings(record: JobRecord) -> dict[str, float]:
    """Return seconds: how long the job waited and ran, and what its last attempt spent them on."""
    timings = dict(record.timings)
    if record.started_at:
        timings["queueSeconds"] = _seconds(record.started_at - record.created_at)
    if record.started_at and record.finished_at:
        timings["runSeconds"] = _seconds(record.finished_at - record.started_at)
    return timings


def _seconds(duration: timedelta) -> float:
    return max(0.0, round(duration.total_seconds(), 3))  # two machines' clocks differ


def catalog(settings: Settings) -> list[dict[str, Any]]:
    """Return the models that there are: one."""
    sizes = [
        {"aspect_ratio": ratio, "megapixels": megapixels} | size_of(ratio, megapixels)._asdict()
        for megapixels in Megapixels
        for ratio in AspectRatio
    ]
    price = {
        "formula": "$0.012 x (width / 1024) x (height / 1024) x (num_inference_steps / 25) for each variation",
        "usd": float(USD_PER_VARIATION),
        "pixels": PRICED_PIXELS,
        "steps": PRICED_STEPS,
        "creditsPerUsd": settings.teams.credits_per_usd,
    }
    limits = {
        "maxUploadBytes": settings.api.max_upload_bytes,
        "maxPixels": settings.api.max_pixels,
        "contentTypes": [known.value for known in ImageType],
        "allowUnchecked": settings.api.allow_unchecked,
    }
    model = {
        "modelId": MODEL,
        "name": "FLUX.1 Redux [dev]",
        "provider": "black-forest-labs",
        "features": [TYPE],
        "creditMetadata": {TYPE: price},
        "modality": {"INPUT": ["image"], "OUTPUT": ["image"]},
        "sizes": sizes,
        "limits": limits,
    }
    return [model]


def asset_links(asset: Asset, objects: ObjectStore) -> dict[str, Any]:
    """Return what an image is and links to it, signed now: one to look at it, one to keep it."""
    return {
        "asset": {
            "key": asset.key,
            "contentType": asset.content_type,
            "size": asset.size_bytes,
            "createdAt": instant(asset.created_at),
            "temporaryUrl": objects.sign(asset.key),
            "downloadUrl": objects.sign(asset.key, to_keep=True),
        }
    }


def asset_answer(asset: Asset, original_name: str, objects: ObjectStore) -> dict[str, Any]:
    """Return all fields that the Asset API's known clients read, each from its own place."""
    content_type = asset.content_type
    return {
        "asset": {
            "fieldname": "asset",
            "originalname": original_name,
            "encoding": "7bit",
            "mimetype": content_type,
            "size": asset.size_bytes,
            "bucket": objects.bucket,
            "key": asset.key,
            "acl": "private",
            "contentType": content_type,
            "contentDisposition": None,
            "contentEncoding": None,
            "storageClass": "STANDARD",
            "serverSideEncryption": None,
            "metadata": {
                "team-id": asset.team_id,
                "user-id": asset.user_id,
                "fieldname": "asset",
                "originalname": original_name,
                "encoding": "7bit",
                "mimetype": content_type,
            },
            "location": objects.location(asset.key),
            "etag": asset.etag,
        },
        "fileContent": {
            "uuid": str(uuid5(NAMESPACE_URL, asset.key)),
            "path": asset.key,
            "type": ImageType(content_type).extension,
            "name": asset.key.rsplit("/", 1)[-1],
            "content": "",
            "status": "ACTIVE",
            "metadata": {"token": 0, "character": 0},
            "createdAt": instant(asset.created_at),
        },
    }


def instant(moment: datetime) -> str:
    """Return ``2024-09-30T06:39:00.540Z``."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
