"""1min.ai's ``POST /api/features`` body: what real clients send, turned into our words."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AliasChoices,
    AliasGenerator,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from api.fields import SHOWN, Deadline, Format, MegapixelsField, NumOutputs, Quality, Seed, Steps, explained, no_none
from api.onemin_view import MODEL
from api.submission import Draft
from shared.egress import Egress
from shared.errors import EgressRefused, InvalidRequest, UnsupportedModel
from shared.jobs import AnyEvent, Echo, OutputFormat, Webhook, WebhookEvent
from shared.sizes import AspectRatio, Megapixels

#: Other names that real clients have for our parameters; the documented name, which stands first, wins.
ALIASES: Final = {
    "imageUrl": AliasChoices("imageUrl", AliasPath("imageList", 0), "redux_image", "image_url"),
    "num_outputs": AliasChoices("num_outputs", "n", "numImages", "num_images"),
    "format": AliasChoices("format", "output_format"),
}


class PromptObject(BaseModel):
    """The parameters, under 1min.ai's names; unknown ones are echoed and otherwise ignored."""

    model_config = ConfigDict(
        frozen=True, alias_generator=AliasGenerator(validation_alias=lambda name: ALIASES.get(name, name))
    )

    imageUrl: Annotated[str, Field(min_length=1, max_length=4096)]  # noqa: N815  their name
    format: Format = OutputFormat.WEBP
    aspect_ratio: AspectRatio = AspectRatio.STANDARD
    num_outputs: NumOutputs = 1
    num_inference_steps: Steps = 28
    seed: Seed | None = None
    output_quality: Quality = 80
    disable_safety_checker: bool = False
    megapixels: MegapixelsField = Megapixels.ONE

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of :class:`shared.jobs.Parameters` that it names."""
        return self.model_dump(exclude={"imageUrl", "format"}) | {"output_format": self.format}


class Submission(BaseModel):
    """The whole body; our own parameters stand beside ``promptObject``."""

    model_config = ConfigDict(frozen=True)

    type: Literal["IMAGE_VARIATOR"]
    model: Literal["black-forest-labs/flux-redux-dev"]
    promptObject: Annotated[PromptObject, BeforeValidator(no_none)]  # noqa: N815  their name
    asynchronous: bool = Field(default=False, alias="async")
    metadata: Any = None
    conversationId: str | None = None  # noqa: N815  their name
    priority: Literal["normal", "low"] = "normal"
    maxQueueSeconds: Deadline | None = None  # noqa: N815
    maxRunSeconds: Deadline | None = None  # noqa: N815
    webhook: Annotated[str, Field(max_length=2048)] | None = None
    webhookEvents: Annotated[Sequence[WebhookEvent], Field(min_length=1, max_length=2)] = (WebhookEvent.FINISHED,)  # noqa: N815


_PROMPT: Final = TypeAdapter(Annotated[PromptObject, BeforeValidator(no_none)])
_SUBMISSION: Final = TypeAdapter(Annotated[Submission, BeforeValidator(no_none)])


def parse_prompt(prompt: Any) -> PromptObject:
    """Return what a decoded promptObject asks for.

    Raises:
        InvalidRequest: If anything is missing or not allowed; every fault is named with its value.
    """
    try:
        return _PROMPT.validate_python(prompt)
    except ValidationError as error:
        raise explained(error.errors()) from error


def parse_submission(body: Any, request_id: str, wait: timedelta, egress: Egress) -> tuple[Draft, str]:
    """Return what a decoded JSON body asks for, with its reference to the source.

    Args:
        body: As it came.
        request_id: For the record.
        wait: How long a caller waits who does not ask for ``async``.
        egress: The way to webhooks, which knows what must not be called.

    Raises:
        UnsupportedModel: If it names another model.
        InvalidRequest: If anything else is missing or not allowed; every fault is named with its value.
    """
    model = body.get("model") if isinstance(body, dict) else None
    if isinstance(model, str) and model != MODEL:
        raise UnsupportedModel(f"Model {model[:SHOWN]} is not supported")
    try:
        sent = _SUBMISSION.validate_python(body)
    except ValidationError as error:
        raise explained(error.errors()) from error
    draft = Draft(
        parameters=sent.promptObject.parameters,
        echo=Echo(
            type=sent.type,
            model=sent.model,
            prompt_object=json.dumps(body["promptObject"]),
            metadata=json.dumps(sent.metadata),
            conversation_id=sent.conversationId,
            request_id=request_id,
        ),
        wait=None if sent.asynchronous else wait,
        low_priority=sent.priority == "low",
        max_queue=_duration(sent.maxQueueSeconds),
        max_run=_duration(sent.maxRunSeconds),
        webhook=checked_webhook(sent.webhook, tuple(sent.webhookEvents), egress),
    )
    return draft, sent.promptObject.imageUrl


def _duration(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def checked_webhook(url: str | None, events: tuple[AnyEvent, ...], egress: Egress) -> Webhook | None:
    """Return whom to tell of what.

    Raises:
        InvalidRequest: If the URL must not be called.
    """
    if url is None:
        return None
    try:
        egress.check_webhook(url)
    except EgressRefused as error:
        raise InvalidRequest.of("webhook", error.message, url) from error
    return Webhook(url=url, events=events)
