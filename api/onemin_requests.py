"""1min.ai's ``POST /api/features`` body: what real clients send, turned into our words."""

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from api.submission import Draft
from shared.errors import InvalidRequest, UnsupportedModel
from shared.jobs import SEEDS, Echo, OutputFormat
from shared.sizes import AspectRatio, Megapixels

MODEL: Final = "black-forest-labs/flux-redux-dev"
SHOWN: Final = 100  #: characters of a wrong value that an error repeats


def _whole(low: int, high: int) -> BeforeValidator:
    """Take a whole number, also as text; clients send both."""

    def check(value: object) -> int:
        try:
            number = int(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
        except (ValueError, OverflowError):
            number = None
        if number is None or not low <= number <= high or (isinstance(value, float) and value != number):
            raise PydanticCustomError("range", f"must be a whole number from {low} to {high}")
        return number

    return BeforeValidator(check)


def _as_text(value: object) -> object:
    """Megapixels come as a number or as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {1: "1", 0.25: "0.25"}.get(value, value)
    return value


def _jpg(value: object) -> object:
    return "jpg" if value == "jpeg" else value


def _no_none(value: object) -> object:
    """Drop nulls: clients send them for what they leave open."""
    if not isinstance(value, dict):
        raise PydanticCustomError("object", "must be an object")
    return {key: item for key, item in value.items() if item is not None}


class PromptObject(BaseModel):
    """The parameters, under 1min.ai's names; unknown ones are echoed and otherwise ignored."""

    model_config = ConfigDict(frozen=True)

    imageUrl: Annotated[str, Field(min_length=1, max_length=4096)]  # noqa: N815  their name
    format: Annotated[OutputFormat, BeforeValidator(_jpg)] = OutputFormat.WEBP
    aspect_ratio: AspectRatio = AspectRatio.STANDARD
    num_outputs: Annotated[int, _whole(1, 4)] = 1
    num_inference_steps: Annotated[int, _whole(1, 50)] = 28
    seed: Annotated[int, _whole(0, SEEDS - 1)] | None = None
    output_quality: Annotated[int, _whole(1, 100)] = 80
    disable_safety_checker: bool = False
    megapixels: Annotated[Megapixels, BeforeValidator(_as_text)] = Megapixels.ONE


class Submission(BaseModel):
    """The whole body; our own parameters stand beside ``promptObject``."""

    model_config = ConfigDict(frozen=True)

    type: Literal["IMAGE_VARIATOR"]
    model: Literal["black-forest-labs/flux-redux-dev"]
    promptObject: Annotated[PromptObject, BeforeValidator(_no_none)]  # noqa: N815  their name
    asynchronous: bool = Field(default=False, validation_alias="async")
    metadata: Any = None
    conversationId: str | None = None  # noqa: N815  their name


_SUBMISSION: Final = TypeAdapter(Annotated[Submission, BeforeValidator(_no_none)])


def parse_submission(body: Any, request_id: str) -> Draft:
    """Return what a decoded JSON body asks for.

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
        raise _explained(error) from error
    prompt = sent.promptObject.model_dump(exclude={"imageUrl", "format"})
    return Draft(
        source=sent.promptObject.imageUrl,
        source_field="promptObject.imageUrl",
        parameters=prompt | {"output_format": sent.promptObject.format},
        echo=Echo(
            type=sent.type,
            model=sent.model,
            prompt_object=json.dumps(body["promptObject"]),
            metadata=json.dumps(sent.metadata),
            conversation_id=sent.conversationId,
            request_id=request_id,
        ),
        wait=not sent.asynchronous,
    )


def _explained(error: ValidationError) -> InvalidRequest:
    details = tuple(_fault(fault) for fault in error.errors())
    message = "; ".join(f"{detail['field']}: {detail['message']}" for detail in details)
    return InvalidRequest(message, details=details)


def _fault(fault: ErrorDetails) -> dict[str, Any]:
    field = ".".join(str(part) for part in fault["loc"]) or "body"
    text = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"] == "missing":
        return {"field": field, "value": None, "message": "is required and missing"}
    return {"field": field, "value": _shortened(fault["input"]), "message": f"{text}, not {_shown(fault['input'])}"}


def _shortened(value: object) -> object:
    """Return a value as it was sent, unless it is large."""
    return value if len(repr(value)) <= SHOWN else _shown(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
