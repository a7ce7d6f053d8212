"""What happens around every request: its id, its line in the log, the limit of its body."""

import re
import secrets
import time
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import ANSWERS
from shared.errors import UploadTooLarge
from shared.settings import ApiSettings

log = structlog.get_logger(__name__)

REQUEST_ID: Final = re.compile(r"[\w.-]{1,128}", re.ASCII)
MAX_JSON_BYTES: Final = 1_000_000
BATCHES: Final = "/api/batches"  #: where manifests go, whatever their media type
MULTIPART_OVERHEAD: Final = 100_000  #: bytes beside the file: boundaries, part headers, small fields


class RequestId:
    """Gives every request an id, the caller's own if it sent one, and tells it in ``x-request-id`` and one log line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        ANSWERS.labels(200)  # there before the first request, for the alert that no API is

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if REQUEST_ID.fullmatch(sent) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        began = time.monotonic()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
                seconds, status = round(time.monotonic() - began, 3), int(message["status"])
                # Never the query: it may be a presigned link's, which opens without a key.
                ANSWERS.labels(status).inc()
                log.info("answered", method=scope["method"], path=scope["path"], status=status, seconds=seconds)
            await send(message)

        structlog.contextvars.bind_contextvars(request=request_id)  # of the request's own task
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("an unexpected error", path=scope["path"])
            raise


class BodyLimit:
    """Counts a body while it is read and refuses it when it grows too large, whatever its headers promise."""

    def __init__(self, app: ASGIApp, *, limits: ApiSettings) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        allowed = limit = MAX_JSON_BYTES
        if headers.get("content-type", "").lower().startswith("multipart/form-data"):
            allowed = self._limits.max_upload_bytes
            limit = allowed + MULTIPART_OVERHEAD
        elif scope["path"].endswith(BATCHES):
            allowed = limit = self._limits.max_batch_bytes
        length = headers.get("content-length", "")
        promised, received = int(length) if length.isdecimal() else 0, 0

        async def receive_counted() -> Message:
            nonlocal received
            if promised <= limit:
                message = await receive()
                received += len(message.get("body", b""))
                if received <= limit:
                    return message
            raise UploadTooLarge(f"the request body is larger than the {allowed} bytes that are allowed")

        await self._app(scope, receive_counted, send)
