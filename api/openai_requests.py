"""OpenAI's multipart form of ``images/variations``, turned into our words."""

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.datastructures import FormData

from api.fields import SHOWN, Choice, Format, NumOutputs
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


class VariationForm(Choice):
    """The fields beside the image: OpenAI's, then ours; unknown ones are ignored."""

    model: str | None = None
    num_outputs: NumOutputs = Field(1, alias="n")
    response_format: Literal["b64_json", "url"] = "b64_json"
    size: Annotated[str, BeforeValidator(_known_size, json_schema_input_type=Literal[tuple(SIZES)])] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    aspect_ratio: AspectRatio = AspectRatio.SQUARE
    output_format: Format = OutputFormat.JPG

    @property
    def parameters(self) -> dict[str, Any]:
        """What to make; a size says shape and area at once."""
        ratio, area = SIZES[self.size] if self.size else (self.aspect_ratio, self.megapixels)
        return super().parameters | {"aspect_ratio": ratio, "megapixels": area}

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
    return VariationForm.parse(fields), model
