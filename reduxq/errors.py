"""What a service refuses or fails at, as one tree; the words are the service's own.

ReduxqError
├── InvalidRequest           what was sent is not allowed; ``details`` names fields, values and what is allowed
│   ├── UnsupportedModel
│   ├── UploadTooLarge
│   ├── UnsupportedMediaType
│   ├── BrokenImage
│   └── IdempotencyKeyReused
├── Unauthorized             no API key, or not a valid one
├── NotFound
├── InsufficientCredits
├── TooManyRequests          more often than retries could wait for
├── Unavailable              no answer, or none of the service's, however often it was asked
├── TimedOut                 the end did not come within the time that was given; the job goes on
└── JobError                 a job did not succeed; ``code`` says why
    ├── Canceled
    ├── ContentFlagged
    └── DeadlineExceeded
"""

from email.utils import parsedate_to_datetime
from math import inf
from time import time
from typing import Any

import httpx


class ReduxqError(Exception):
    """Something went wrong.

    Attributes:
        message: As the service said it.
        code: The service's word for it, as ``VALIDATION_ERROR``; empty if it did not say.
        status: HTTP status; None if there was no answer.
        details: One object {field, value, message} for each fault.
        retry_after: Seconds until trying again may help, infinite if it will not; None if nobody said.
        request_id: What the service's log calls the request.
    """

    code: str = ""
    status: int | None = None
    details: tuple[dict[str, Any], ...] = ()
    retry_after: float | None = None
    request_id: str = ""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class InvalidRequest(ReduxqError):
    """What was sent is not allowed."""


class UnsupportedModel(InvalidRequest):
    """The service has no such model."""


class UploadTooLarge(InvalidRequest):
    """The image or the manifest is larger than the service takes."""


class UnsupportedMediaType(InvalidRequest):
    """The image is of a type that the service does not take."""


class BrokenImage(InvalidRequest):
    """The image cannot be decoded."""


class IdempotencyKeyReused(InvalidRequest):
    """The Idempotency-Key was used for something else within a day."""


class Unauthorized(ReduxqError):
    """The API key is missing or not valid."""


class NotFound(ReduxqError):
    """There is no such thing, or it is another team's."""


class InsufficientCredits(ReduxqError):
    """The team has too few credits."""


class TooManyRequests(ReduxqError):
    """The key asks too often, or the team has too many open jobs."""


class Unavailable(ReduxqError):
    """The service cannot be reached or cannot serve right now."""


class TimedOut(ReduxqError):
    """The end did not come within the time that was given."""


class JobError(ReduxqError):
    """The job did not succeed."""


class Canceled(JobError):
    """The job was canceled."""


class ContentFlagged(JobError):
    """The safety checker withheld every variation."""


class DeadlineExceeded(JobError):
    """The job took longer than it may."""


_BY_CODE: dict[str, type[ReduxqError]] = {
    "UNSUPPORTED_MODEL": UnsupportedModel,
    "INVALID_IMAGE": BrokenImage,
    "IDEMPOTENCY_KEY_REUSED": IdempotencyKeyReused,
}
_BY_STATUS: dict[int, type[ReduxqError]] = {
    401: Unauthorized,
    404: NotFound,
    406: InsufficientCredits,
    413: UploadTooLarge,
    415: UnsupportedMediaType,
    429: TooManyRequests,
}
_OF_JOBS: dict[str, type[JobError]] = {
    "CANCELED": Canceled,
    "CONTENT_FLAGGED": ContentFlagged,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}


def error_of(answer: httpx.Response) -> ReduxqError:
    """Return the error that an answer is."""
    try:
        body = answer.json()
        code, message = str(body["errorCode"]), str(body["message"])
        details = tuple(body.get("error", {}).get("details", ()))
    except (ValueError, LookupError, TypeError, AttributeError):  # a proxy's or the storage's
        said = f"{answer.url.host} answered {answer.status_code} {answer.reason_phrase}"
        code, message, details = "", said, ()
    other = Unavailable if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR else InvalidRequest
    error = _BY_CODE.get(code, _BY_STATUS.get(answer.status_code, other))(message, code=code)
    error.status, error.details, error.retry_after = answer.status_code, details, _retry_after(answer)
    error.request_id = answer.headers.get("x-request-id", "")
    return error


def error_of_job(failure: dict[str, Any]) -> JobError:
    """Return the error that a failed job's ``{"code", "message"}`` is."""
    return _OF_JOBS.get(failure["code"], JobError)(failure["message"], code=failure["code"])


def _retry_after(answer: httpx.Response) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, whether as a number or as a date."""
    if answer.headers.get("x-should-retry") == "false":
        return inf
    text = answer.headers.get("retry-after", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except ValueError:
        return None
