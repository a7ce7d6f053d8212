"""Client of a reduxq service."""

from collections.abc import Mapping
from typing import Any, Final, Self

import httpx

from shared.errors import InvalidRequest, NotFound, ReduxqError, Unauthorized, Unavailable

TYPE: Final = "IMAGE_VARIATOR"
MODEL: Final = "black-forest-labs/flux-redux-dev"
TIMEOUT: Final = 60.0  #: seconds for one call
#: By HTTP status.
ERRORS: Final[dict[int, type[ReduxqError]]] = {401: Unauthorized, 404: NotFound, 429: Unavailable}

#: A job's record, as the service reports it.
AiRecord = dict[str, Any]


class Client:
    """Sends images, asks for variations and fetches them.

    Every method raises:
        Unavailable: If the service does not answer or cannot serve right now, or the key asks too often.
        Unauthorized, InvalidRequest, NotFound: As the service says, with its message.
    """

    def __init__(self, api_url: str, api_key: str, *, timeout: float = TIMEOUT, trust_env: bool = True) -> None:
        headers = {"API-KEY": api_key}
        self._api = httpx.Client(base_url=api_url, headers=headers, timeout=timeout, trust_env=trust_env)
        self._links = httpx.Client(timeout=timeout, trust_env=trust_env)  # a link is for whoever has it: no key

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()
        self._links.close()

    def upload(self, name: str, image: bytes) -> str:
        """Store an image; return its key."""
        answer = _request(self._api, "POST", "/api/assets", files={"asset": (name, image)})
        return str(answer.json()["asset"]["key"])

    def submit(self, prompt: Mapping[str, Any]) -> AiRecord:
        """Ask for variations; return the record of the job, which has only been accepted yet."""
        body = {"type": TYPE, "model": MODEL, "promptObject": dict(prompt), "async": True}
        return _record(_request(self._api, "POST", "/api/features", json=body))

    def result(self, uuid: str) -> AiRecord:
        """Return the record of a job as it is now."""
        return _record(_request(self._api, "GET", f"/api/results/{uuid}"))

    def download(self, link: str) -> bytes:
        """Return what a presigned link leads to."""
        return _request(self._links, "GET", link).content


def _request(client: httpx.Client, method: str, url: str, **content: Any) -> httpx.Response:
    try:
        answer = client.request(method, url, **content)
    except httpx.TransportError as error:
        raise Unavailable(f"{httpx.URL(url).host or client.base_url} does not answer: {error}") from error
    if answer.is_success:
        return answer
    raise _error(answer)


def _error(answer: httpx.Response) -> ReduxqError:
    try:
        message = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        message = f"{answer.url.host} answered {answer.status_code} {answer.reason_phrase}"
    return ERRORS.get(answer.status_code, Unavailable if answer.is_server_error else InvalidRequest)(message)


def _record(answer: httpx.Response) -> AiRecord:
    record: AiRecord | None = answer.json()["aiRecord"]
    if record is None:
        raise NotFound("there is no such job")
    return record
