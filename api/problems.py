"""Errors on the wire: one HTTP status for each class of our error tree, in the envelope of the facade asked."""

from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from api.fields import explained
from shared import errors

log = structlog.get_logger(__name__)

OPENAI: Final = ("/v1/", "/api/v1/")  #: what the paths of the OpenAI facade begin with

STATUSES: Final[dict[type[Exception], HTTPStatus]] = {
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.UploadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.InsufficientCredits: HTTPStatus.NOT_ACCEPTABLE,
    errors.TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Canceled: HTTPStatus.BAD_REQUEST,
    errors.ContentFlagged: HTTPStatus.BAD_REQUEST,
    errors.SourceUnusable: HTTPStatus.BAD_REQUEST,
    errors.ReduxqError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
#: Where OpenAI's statuses are others.
OPENAI_STATUSES: Final = STATUSES | {
    errors.UnsupportedModel: HTTPStatus.NOT_FOUND,
    errors.InsufficientCredits: HTTPStatus.PAYMENT_REQUIRED,
}
#: OpenAI's words for our codes; the others are told in lower case.
OPENAI_CODES: Final = {
    errors.Unauthorized.code: "invalid_api_key",
    errors.UnsupportedModel.code: "model_not_found",
    errors.InsufficientCredits.code: "insufficient_quota",
    errors.ContentFlagged.code: "content_policy_violation",
    errors.InvalidRequest.code: "invalid_value",
}
OPENAI_TYPES: Final = {
    HTTPStatus.PAYMENT_REQUIRED: "insufficient_quota",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}

Details = tuple[dict[str, Any], ...]


def onemin_envelope(code: str, message: str, details: Details = ()) -> dict[str, Any]:
    """Return an error body that every known client of 1min.ai can read."""
    return {
        "success": False,
        "errorCode": code,
        "message": message,
        "error": {"message": message, "details": list(details)},
    }


def openai_envelope(status: int, code: str, message: str, details: Details = ()) -> dict[str, Any]:
    """Return an error body as OpenAI's SDKs read it."""
    server = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    kind = OPENAI_TYPES.get(HTTPStatus(status), "server_error" if server else "invalid_request_error")
    param = str(details[0]["field"]) if details else None
    word = OPENAI_CODES.get(code, code.lower())
    return {"error": {"message": message, "type": kind, "param": param, "code": word}}


def status_of(kind: type[errors.ReduxqError], *, openai: bool) -> HTTPStatus:
    """Return what a facade answers when this goes wrong."""
    statuses = OPENAI_STATUSES if openai else STATUSES
    return next(statuses[base] for base in kind.__mro__ if base in statuses)


def add_handlers(app: FastAPI) -> None:
    """Answer every error in the envelope; the decorator takes handlers of one kind of error, the method only of any."""
    app.exception_handler(errors.ReduxqError)(_on_ours)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http)
    app.exception_handler(ClientDisconnect)(_on_hung_up)
    app.exception_handler(Exception)(_on_unexpected)


async def _on_ours(request: Request, error: errors.ReduxqError) -> JSONResponse:
    status = status_of(type(error), openai=_asks_openai(request))
    message, headers = error.message, {}
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("cannot serve", error=message)
        message = error.summary
        if not error.retryable:
            headers["x-should-retry"] = "false"
    if retry_after := getattr(error, "retry_after", None):
        headers["Retry-After"] = str(retry_after)
    return _answer(request, status, error.code, message, headers=headers, details=getattr(error, "details", ()))


async def _on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    return await _on_ours(request, explained(error.errors()))


async def _on_http(request: Request, error: HTTPException) -> JSONResponse:
    what = {
        HTTPStatus.NOT_FOUND: f"there is no {request.url.path} here",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} does not take {request.method}",
    }.get(HTTPStatus(error.status_code), error.detail)
    return _answer(request, error.status_code, HTTPStatus(error.status_code).name, what, headers=error.headers)


async def _on_hung_up(request: Request, _: Exception) -> JSONResponse:
    """Answer nobody, for the log's sake."""
    return _answer(request, HTTPStatus.BAD_REQUEST, "CLIENT_DISCONNECTED", "the client hung up")


async def _on_unexpected(request: Request, _: Exception) -> JSONResponse:
    """Say nothing of the inside; the server logs the traceback."""
    message = "an unexpected error; the server's log has it under this request's x-request-id"
    headers = {"x-request-id": request.state.request_id}
    return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", message, headers=headers)


def _answer(
    request: Request, status: int, code: str, message: str, *, headers: Any = None, details: Details = ()
) -> JSONResponse:
    if _asks_openai(request):
        return JSONResponse(openai_envelope(status, code, message, details), status, headers)
    return JSONResponse(onemin_envelope(code, message, details), status, headers)


def _asks_openai(request: Request) -> bool:
    return f"{request.url.path}/".startswith(OPENAI)
