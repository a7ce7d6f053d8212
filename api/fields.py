"""Fields of requests as real clients write them, for every facade, and what to say of a wrong one."""

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from shared.errors import InvalidRequest
from shared.jobs import SEEDS, OutputFormat
from shared.sizes import AspectRatio, Megapixels

_ENCODE: Final = json.JSONEncoder(allow_nan=False).encode
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

    return BeforeValidator(check, json_schema_input_type=Annotated[int, Field(ge=low, le=high)] | str)


def _as_text(value: object) -> object:
    """Megapixels come as a number or as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {1: "1", 0.25: "0.25"}.get(value, value)
    return value


def _jpg(value: object) -> object:
    return "jpg" if value == "jpeg" else value


NumOutputs = Annotated[int, _whole(1, 4)]
Steps = Annotated[int, _whole(1, 50)]
Seed = Annotated[int, _whole(0, SEEDS - 1)]
Quality = Annotated[int, _whole(1, 100)]
Deadline = Annotated[timedelta, _whole(1, 31_536_000)]  #: sent in seconds, up to a year
WaitSeconds = Annotated[int, _whole(0, 60)]
Offset = Annotated[int, _whole(0, 2**53)]
PageSize = Annotated[int, _whole(1, 100)]
Format = Annotated[OutputFormat, BeforeValidator(_jpg)]
MegapixelsField = Annotated[Megapixels, BeforeValidator(_as_text)]


def decoded(text: bytes, what: str) -> Any:
    """Return what a JSON text says.

    Raises:
        InvalidRequest: If it is not JSON.
    """
    try:
        value = from_json(text, allow_inf_nan=False)
        _ENCODE(value)  # 1e999 is read as infinity and could not be echoed
    except ValueError as error:
        raise InvalidRequest(f"{what}: is not JSON: {error}") from error
    return value


def explained(faults: Iterable[ErrorDetails]) -> InvalidRequest:
    """Return the error that names every faulty field with its value and what is allowed."""
    details = tuple(_fault(fault) for fault in faults)
    message = "; ".join(f"{detail['field']}: {detail['message']}" for detail in details)
    return InvalidRequest(message, details=details)


def shown(value: object) -> str:
    """Return a value as an error repeats it."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _fault(fault: ErrorDetails) -> dict[str, Any]:
    field = ".".join(str(part) for part in fault["loc"] if part != "query") or "body"
    text = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"] == "missing":
        return {"field": field, "value": None, "message": "is required and missing"}
    return {"field": field, "value": _shortened(fault["input"]), "message": f"{text}, not {shown(fault['input'])}"}


def _shortened(value: object) -> object:
    """Return a value as it was sent, unless it is large."""
    return value if len(repr(value)) <= SHOWN else shown(value)


class Body(BaseModel):
    """An object as a client sends it, written again in the client's names."""

    model_config = ConfigDict(frozen=True, serialize_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, sent: object) -> object:
        """Drop nulls: clients send them for what they leave open."""
        if not isinstance(sent, dict):
            raise PydanticCustomError("object", "must be an object")
        return {key: item for key, item in sent.items() if item is not None}

    @classmethod
    def parse(cls, sent: object) -> Self:
        """Return what was sent.

        Raises:
            InvalidRequest: If anything is missing or not allowed; every fault is named with its value.
        """
        try:
            return cls.model_validate(sent)
        except ValidationError as error:
            raise explained(error.errors()) from error


class Choice(Body):
    """What to make, the same for every facade but for some names and defaults."""

    output_format: Format = OutputFormat.WEBP
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
        return self.model_dump(include=set(Choice.model_fields), by_alias=False)
