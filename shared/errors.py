"""Everything that can go wrong, as one tree.

ReduxqError
├── InvalidRequest           what the caller sent is not allowed
│   ├── UnsupportedModel
│   ├── UploadTooLarge
│   ├── UnsupportedMediaType
│   │   └── UnsupportedImage
│   ├── BrokenImage
│   ├── EgressRefused        the client's URL is one that we do not call
│   ├── EgressFailed         what the client's URL leads to did not deliver
│   └── IdempotencyKeyReused
├── Unauthorized
├── NotFound
├── InsufficientCredits
├── TooManyRequests
├── Unavailable              a server we stand on does not answer
│   ├── RecordsUnavailable
│   ├── StorageUnavailable
│   └── EgressUnavailable
├── Misconfigured            nothing starts until the operator mends it
│   └── ModelUnavailable
├── JobError                 ends a job; its code and message stand in the record
│   ├── Canceled
│   ├── ContentFlagged
│   ├── ModelFailed
│   ├── SourceUnusable
│   └── TooManyAttempts
├── LeaseLost                this worker no longer owns the job and must drop it in silence
├── ShuttingDown             the worker stops; the job goes back to the queue
└── IllegalTransition        a record was asked to do what its status does not allow

A class's docstring is its default message, ``code`` is what clients see, ``retryable`` says whether the worker puts
the job back for another attempt. HTTP statuses and envelopes live in the API alone.
"""

from typing import Any, ClassVar, Self


class ReduxqError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "ERROR"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        self.message = message or self.summary
        super().__init__(self.message)

    @property
    def summary(self) -> str:
        """What happened, without the details that are the operator's business."""
        return (type(self).__doc__ or "").strip()


class InvalidRequest(ReduxqError):
    """The request is not valid."""

    code = "VALIDATION_ERROR"

    def __init__(self, message: str | None = None, *, details: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(message)
        self.details = details  #: one {field, value, message} for each fault

    @classmethod
    def of(cls, field: str, message: str, value: Any = None) -> Self:
        """Return the error that one field's value is."""
        return cls(f"{field}: {message}", details=({"field": field, "value": value, "message": message},))


class UnsupportedModel(InvalidRequest):
    """The model is not supported."""

    code = "UNSUPPORTED_MODEL"


class UploadTooLarge(InvalidRequest):
    """The request body is too large."""

    code = "PAYLOAD_TOO_LARGE"


class UnsupportedMediaType(InvalidRequest):
    """The request body is of a type that is not supported here."""

    code = "UNSUPPORTED_MEDIA_TYPE"


class UnsupportedImage(UnsupportedMediaType):
    """The image is of a type that is not supported."""


class BrokenImage(InvalidRequest):
    """The image cannot be decoded."""

    code = "INVALID_IMAGE"


class EgressRefused(InvalidRequest):
    """The URL must not be called."""

    code = "URL_REFUSED"


class EgressFailed(InvalidRequest):
    """The URL's server does not answer over https."""

    code = "URL_FAILED"


class IdempotencyKeyReused(InvalidRequest):
    """The Idempotency-Key was used for another request within the last 24 hours."""

    code = "IDEMPOTENCY_KEY_REUSED"


class Unauthorized(ReduxqError):
    """The API key is missing or not valid."""

    code = "HTTP_EXCEPTION"  # the word the original service uses for it


class NotFound(ReduxqError):
    """There is no such thing."""

    code = "NOT_FOUND"


class InsufficientCredits(ReduxqError):
    """The team has too few credits."""

    code = "INSUFFICIENT_CREDITS"


class TooManyRequests(ReduxqError):
    """Too many requests."""

    code = "RATE_LIMIT_EXCEEDED"

    def __init__(self, message: str | None = None, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after  #: seconds until trying again may help


class Unavailable(ReduxqError):
    """The service cannot be reached right now."""

    code = "SERVICE_UNAVAILABLE"
    retryable = True
    retry_after: ClassVar[int] = 2  #: seconds until a client may try again


class RecordsUnavailable(Unavailable):
    """The records server cannot be reached."""


class StorageUnavailable(Unavailable):
    """The object storage cannot be reached."""


class EgressUnavailable(Unavailable):
    """The egress proxy cannot be reached."""


class Misconfigured(ReduxqError):
    """A setting is missing or wrong."""

    code = "MISCONFIGURED"


class ModelUnavailable(Misconfigured):
    """The model's weights cannot be loaded."""

    code = "MODEL_UNAVAILABLE"


class JobError(ReduxqError):
    """The job failed."""

    code = "JOB_FAILED"


class Canceled(JobError):
    """The job was canceled."""

    code = "CANCELED"


class ContentFlagged(JobError):
    """The safety checker flagged every variation."""

    code = "CONTENT_FLAGGED"


class ModelFailed(JobError):
    """The model failed while it made the variations."""

    code = "MODEL_FAILED"


class SourceUnusable(JobError):
    """The source image can no longer be read."""

    code = "SOURCE_UNUSABLE"


class TooManyAttempts(JobError):
    """The job's attempts failed too often."""

    code = "TOO_MANY_ATTEMPTS"


class LeaseLost(ReduxqError):
    """Another worker owns the job, or it has ended."""


class ShuttingDown(ReduxqError):
    """The worker is shutting down."""


class IllegalTransition(ReduxqError):
    """The job's status does not allow that."""
