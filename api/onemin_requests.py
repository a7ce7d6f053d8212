"""1min.ai's ``POST /api/features`` body: what real clients send, turned into our words."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from api.submission import Draft
from shared.errors import InvalidRequest, UnsupportedModel
from shared.jobs import SEEDS, Echo, OutputFormat
from shared.sizes import AspectRatio, Megapixels

FEATURE: Final = "IMAGE_VARIATOR"
MODEL: Final = "black-forest-labs/flux-redux-dev"


def _between(low: int, high: int) -> AfterValidator:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise PydanticCustomError("range", f"must be a whole number from {low} to {high}")
        return value

    return AfterValidator(check)


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "must be a whole number")
    return value


def _as_text(value: object) -> object:
    """Megapixels come as a number or as a string."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _jpg(value: object) -> object:
    return "jpg" if value == "jpeg" else value


def _no_none(value: object) -> object:
    """Drop nulls: clients send them for what they leave open."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


Number = Annotated[int, BeforeValidator(_no_bool)]  #: a whole number, also as a string


class PromptObject(BaseModel):
    """The parameters, under 1min.ai's names; unknown ones are echoed and otherwise ignored."""

    model_config = ConfigDict(frozen=True)

    imageUrl: Annotated[str, Field(min_length=1, max_length=4096)]  # noqa: N815  their name
    format: Annotated[OutputFormat, BeforeValidator(_jpg)] = OutputFormat.WEBP
    aspect_ratio: AspectRatio = AspectRatio.STANDARD
    num_outputs: Annotated[Number, _between(1, 4)] = 1
    num_inference_steps: Annotated[Number, _between(1, 50)] = 28
    seed: Annotated[Number, _between(0, SEEDS - 1)] | None = None
    output_quality: Annotated[Number, _between(1, 100)] = 80
    disable_safety_checker: bool = False
    megapixels: Annotated[Megapixels, BeforeValidator(_as_text)] = Megapixels.ONE


class Submission(BaseModel):
    """The whole body."""

    model_config = ConfigDict(frozen=True)

    type: Literal["IMAGE_VARIATOR"]
    model: str
    promptObject: Annotated[PromptObject, BeforeValidator(_no_none)]  # noqa: N815  their name
    asynchronous: bool = Field(default=False, validation_alias="async")
    metadata: Any = None
    conversationId: str | None = None  # noqa: N815  their name


def parse_submission(body: Any, request_id: str) -> Draft:
    """Return what a decoded JSON body asks for.

    Raises:
        UnsupportedModel: If it names another model.
        InvalidRequest: If anything else is missing or not allowed; every fault is named with its value.
    """
    if isinstance(body, dict) and isinstance(body.get("model"), str) and body["model"] != MODEL:
        raise UnsupportedModel(f"Model {body['model']} is not supported", details=(_detail("model", body["model"]),))
    try:
        sent = Submission.model_validate(body)
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
            prompt_object=body["promptObject"],
            metadata=sent.metadata,
            conversation_id=sent.conversationId,
            request_id=request_id,
        ),
        wait=not sent.asynchronous,
    )


def _detail(field: str, value: object) -> dict[str, Any]:
    return {"field": field, "value": value, "message": f"allowed is {MODEL!r}"}


def _explained(error: ValidationError) -> InvalidRequest:
    details = tuple(_fault(fault) for fault in error.errors())
    message = "; ".join(f"{detail['field']}: {detail['message']}" for detail in details)
    return InvalidRequest(message, details=details)


def _fault(fault: ErrorDetails) -> dict[str, Any]:
    field = ".".join(str(part) for part in fault["loc"]) or "body"
    text = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"] == "missing":
        return {"field": field, "value": None, "message": "is required and missing"}
    return {"field": field, "value": fault["input"], "message": f"{text}, not {_shown(fault['input'])}"}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."  # noqa: PLR2004  characters
