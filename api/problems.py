"""Errors on the wire: one HTTP status for each class of our error tree, in the 1min.ai facade's envelope."""

from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from shared import errors

log = structlog.get_logger(__name__)

STATUSES: Final[dict[type[Exception], HTTPStatus]] = {
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.UploadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedImage: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ReduxqError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
RETRY_AFTER: Final = {HTTPStatus.SERVICE_UNAVAILABLE: "2"}  #: seconds


def envelope(code: str, message: str, details: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """Return an error body that every known client of 1min.ai can read."""
    return {
        "success": False,
        "errorCode": code,
        "message": message,
        "error": {"message": message, "details": list(details)},
    }


def add_handlers(app: FastAPI) -> None:
    """Answer every error in the envelope."""
    app.add_exception_handler(errors.ReduxqError, _on_ours)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_ours(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, errors.ReduxqError):
        raise error
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    message = error.message
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("cannot serve", error=message)
        message = error.summary
    headers = {"Retry-After": RETRY_AFTER[status]} if status in RETRY_AFTER else {}
    return JSONResponse(envelope(error.code, message, getattr(error, "details", ())), status, headers)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    what = {
        HTTPStatus.NOT_FOUND: f"there is no {request.url.path} here",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} does not take {request.method}",
    }.get(HTTPStatus(error.status_code), error.detail)
    code = HTTPStatus(error.status_code).name
    return JSONResponse(envelope(code, what), error.status_code, error.headers)


async def _on_unexpected(request: Request, _: Exception) -> JSONResponse:
    """Say nothing of the inside; the server logs the traceback."""
    message = "an unexpected error; the server's log has it under this request's x-request-id"
    headers = {"x-request-id": request.state.request_id}
    return JSONResponse(envelope("INTERNAL_ERROR", message), HTTPStatus.INTERNAL_SERVER_ERROR, headers)
