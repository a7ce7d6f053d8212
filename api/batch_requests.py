"""A batch's manifest on the wire: lines of JSON, each checked as ``IMAGE_VARIATOR``'s promptObject is."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import ConfigDict, Field

from api.fields import Body, decoded
from api.onemin_requests import ALIASES, PromptObject
from shared.errors import InvalidRequest, ReduxqError, UploadTooLarge

LINE_BYTES: Final = 65_536  #: of one line; a promptObject takes some hundred
#: Names of one parameter each; a line that has one of them lacks none of them.
SAME: Final = tuple(
    {choice if isinstance(choice, str) else str(choice.path[0]) for choice in names.choices}
    for names in ALIASES.values()
)


class Header(Body):
    """The first line, if it has ``defaults``."""

    model_config = ConfigDict(extra="forbid")

    defaults: dict[str, Any] = Field(default_factory=dict)
    priority: Literal["low", "normal"] = "low"
    webhook: Annotated[str, Field(max_length=2048)] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class Sent(Body):
    """Any other line; what it has besides is its promptObject."""

    model_config = ConfigDict(extra="allow")

    customId: Annotated[str, Field(max_length=200)] | None = None  # noqa: N815  as our other fields of the wire


class Checked(NamedTuple):
    """What a line asks for, or why it cannot be."""

    custom_id: str | None = None
    prompt: PromptObject | None = None
    error: ReduxqError | None = None


async def numbered(body: AsyncIterable[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Give the lines that are not blank, with their numbers from 1.

    Raises:
        UploadTooLarge: If one has more than :data:`LINE_BYTES`.
        InvalidRequest: If one is not UTF-8.
    """
    number, rest = 0, b""
    async for piece in body:
        *whole, rest = (rest + (piece or b"\n")).split(b"\n")  # the last piece is empty
        for line in whole:
            number += 1
            if line.strip():
                yield number, _checked(number, line)
        _checked(number + 1, rest, whole=False)


def header_of(number: int, line: bytes) -> Header | None:
    """Return what a first line says of all others; None if it is an item.

    Raises:
        InvalidRequest: If it names anything that is not allowed, or is a header in all but its JSON.
    """
    try:
        value = decoded(line, f"line {number}")
    except InvalidRequest:
        if b'"defaults"' in line:  # as an item that fails it would leave all others to other parameters
            raise
        return None
    if not isinstance(value, dict) or "defaults" not in value:
        return None
    header = Header.parse(value)
    PromptObject.parse({"imageUrl": "any"} | header.defaults)
    return header


def check_line(number: int, text: bytes, defaults: Mapping[str, Any]) -> Checked:
    """Return what a line asks for, or why it cannot be."""
    custom_id = None
    try:
        sent = Sent.parse(decoded(text, f"line {number}"))
        custom_id = sent.customId
        return Checked(custom_id, PromptObject.parse(complete(sent.model_extra or {}, defaults)))
    except InvalidRequest as error:
        return Checked(custom_id, error=error)


def complete(sent: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line's parameters, with the defaults of those that it lacks under all their names."""
    named = {name for names in SAME if names & sent.keys() for name in names}
    return {name: value for name, value in defaults.items() if name not in named} | dict(sent)


def _checked(number: int, line: bytes, *, whole: bool = True) -> bytes:
    if len(line) > LINE_BYTES:
        raise UploadTooLarge(f"line {number} is longer than the {LINE_BYTES} bytes that are allowed")
    try:
        if whole:
            line.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"body: is not UTF-8 in line {number}: {error}") from error
    return line
