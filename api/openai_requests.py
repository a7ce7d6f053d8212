"""OpenAI's multipart form of ``images/variations``, turned into our words."""

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError
from starlette.datastructures import FormData

from api.fields import SHOWN, Format, MegapixelsField, NumOutputs, Quality, Seed, Steps, explained
from api.onemin_view import TYPE
from shared.errors import InvalidRequest, UnsupportedModel
from shared.jobs import Echo, OutputFormat
from shared.sizes import AspectRatio, Megapixels, size_of

#: Our words for every size, as clients write it.
SIZES: Final = {
    f"{size.width}x{size.height}": (ratio, area)
    for area in Megapixels
    for ratio in AspectRatio
    for size in (size_of(ratio, area),)
}


def _known_size(value: object) -> object:
    if value not in SIZES:
        raise PydanticCustomError("size", "must be one of {sizes}", {"sizes": ", ".join(SIZES)})
    return value


class VariationForm(BaseModel):
    """The fields beside the image: OpenAI's, then ours; unknown ones are ignored."""

    model_config = ConfigDict(frozen=True)

    model: str | None = None
    n: NumOutputs = 1
    response_format: Literal["b64_json", "url"] = "b64_json"
    size: Annotated[str, BeforeValidator(_known_size, json_schema_input_type=Literal[tuple(SIZES)])] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    aspect_ratio: AspectRatio = AspectRatio.SQUARE
    megapixels: MegapixelsField = Megapixels.ONE
    num_inference_steps: Steps = 28
    seed: Seed | None = None
    output_format: Format = OutputFormat.JPG
    output_quality: Quality = 80
    disable_safety_checker: bool = False

    def parameters(self) -> dict[str, Any]:
        """Return what to make; a size says shape and area at once."""
        named = {"num_inference_steps", "seed", "output_format", "output_quality", "disable_safety_checker"}
        ratio, area = SIZES[self.size] if self.size else (self.aspect_ratio, self.megapixels)
        return self.model_dump(include=named) | {"num_outputs": self.n, "aspect_ratio": ratio, "megapixels": area}

    def echo(self, model: str, request_id: str) -> Echo:
        """Return what the record says of the request, in the words of 1min.ai's promptObject."""
        sent = self.model_dump(mode="json", exclude={"model"}, exclude_unset=True)
        return Echo(type=TYPE, model=model, prompt_object=json.dumps(sent), end_user=self.user, request_id=request_id)


def parse_form(form: FormData, models: tuple[str, ...]) -> tuple[VariationForm, str]:
    """Return the checked fields and the model's name; the first of ``models`` is the default.

    Raises:
        UnsupportedModel: If it names another model.
        InvalidRequest: If anything else is not allowed; every fault is named with its value.
    """
    fields = {name: value for name, value in form.items() if isinstance(value, str) and value}
    model = fields.get("model", models[0])
    if model not in models:
        what = f"The model {model[:SHOWN]!r} does not exist; there is {', '.join(models)}"
        raise UnsupportedModel(what, details=({"field": "model"},))
    clash = [name for name in ("aspect_ratio", "megapixels") if name in fields and "size" in fields]
    if clash:
        raise InvalidRequest.of(clash[0], "says what size says too; send one of them", fields[clash[0]])
    try:
        return VariationForm.model_validate(fields), model
    except ValidationError as error:
        raise explained(error.errors()) from error
