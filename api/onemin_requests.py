"""1min.ai's ``POST /api/features`` body: what real clients send, turned into our words."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, AliasGenerator, AliasPath, ConfigDict, Field

from api.fields import SHOWN, Body, Choice, Deadline
from api.onemin_view import MODEL
from api.submission import Draft
from shared.egress import Egress
from shared.errors import EgressRefused, InvalidRequest, UnsupportedModel
from shared.jobs import AnyEvent, Echo, Webhook, WebhookEvent

#: Other names that real clients have for our parameters; the documented name, which stands first, wins.
ALIASES: Final = {
    "imageUrl": AliasChoices("imageUrl", AliasPath("imageList", 0), "redux_image", "image_url"),
    "num_outputs": AliasChoices("num_outputs", "n", "numImages", "num_images"),
    "output_format": AliasChoices("format", "output_format"),
}


class PromptObject(Choice):
    """The parameters, under 1min.ai's names; unknown ones are echoed and otherwise ignored."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(
            validation_alias=lambda name: ALIASES.get(name, name),
            serialization_alias=lambda name: "format" if name == "output_format" else name,
        )
    )

    imageUrl: Annotated[str, Field(min_length=1, max_length=4096)]  # noqa: N815  their name


class Submission(Body):
    """The whole body; our own parameters stand beside ``promptObject``."""

    type: Literal["IMAGE_VARIATOR"]
    model: Literal["black-forest-labs/flux-redux-dev"]
    promptObject: PromptObject  # noqa: N815  their name
    asynchronous: bool = Field(default=False, alias="async")
    metadata: Any = None
    conversationId: str | None = None  # noqa: N815  their name
    priority: Literal["normal", "low"] = "normal"
    maxQueueSeconds: Deadline | None = None  # noqa: N815
    maxRunSeconds: Deadline | None = None  # noqa: N815
    webhook: Annotated[str, Field(max_length=2048)] | None = None
    webhookEvents: Annotated[Sequence[WebhookEvent], Field(min_length=1, max_length=2)] = (WebhookEvent.FINISHED,)  # noqa: N815


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
    sent = Submission.parse(body)
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
        max_queue=sent.maxQueueSeconds,
        max_run=sent.maxRunSeconds,
        webhook=checked_webhook(sent.webhook, tuple(sent.webhookEvents), egress),
    )
    return draft, sent.promptObject.imageUrl


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
