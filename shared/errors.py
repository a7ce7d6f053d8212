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
│   ├── StillRunning
│   ├── StorageUnavailable
│   └── EgressUnavailable
├── Misconfigured            nothing starts until the operator mends it
│   └── ModelUnavailable
├── JobError                 ends a job; its code and message stand in the record
│   ├── Canceled
│   ├── ContentFlagged
│   ├── DeadlineExceeded
│   ├── ModelFailed
│   ├── SourceUnusable
│   └── TooManyAttempts
├── UnreadableRecord         damaged, or another release's
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

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        cls.code = code or cls.code

    def __init__(self, message: str | None = None) -> None:
        self.message = message or self.summary
        super().__init__(self.message)

    @property
    def summary(self) -> str:
        """What happened, without the details that are the operator's business."""
        return (type(self).__doc__ or "").strip()


class InvalidRequest(ReduxqError, code="VALIDATION_ERROR"):
    """The request is not valid."""

    def __init__(self, message: str | None = None, *, details: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(message)
        self.details = details  #: one {field, value, message} for each fault

    @classmethod
    def of(cls, field: str, message: str, value: Any = None) -> Self:
        """Return the error that one field's value is."""
        return cls(f"{field}: {message}", details=({"field": field, "value": value, "message": message},))


class UnsupportedModel(InvalidRequest, code="UNSUPPORTED_MODEL"):
    """The model is not supported."""


class UploadTooLarge(InvalidRequest, code="PAYLOAD_TOO_LARGE"):
    """The request body is too large."""


class UnsupportedMediaType(InvalidRequest, code="UNSUPPORTED_MEDIA_TYPE"):
    """The request body is of a type that is not supported here."""


class UnsupportedImage(UnsupportedMediaType):
    """The image is of a type that is not supported."""


class BrokenImage(InvalidRequest, code="INVALID_IMAGE"):
    """The image cannot be decoded."""


class EgressRefused(InvalidRequest, code="URL_REFUSED"):
    """The URL must not be called."""


class EgressFailed(InvalidRequest, code="URL_FAILED"):
    """The URL's server does not answer over https."""


class IdempotencyKeyReused(InvalidRequest, code="IDEMPOTENCY_KEY_REUSED"):
    """The Idempotency-Key was used for another request within the last 24 hours."""


class Unauthorized(ReduxqError, code="HTTP_EXCEPTION"):  # the word the original service uses for it
    """The API key is missing or not valid."""


class NotFound(ReduxqError, code="NOT_FOUND"):
    """There is no such thing."""


class InsufficientCredits(ReduxqError, code="INSUFFICIENT_CREDITS"):
    """The team has too few credits."""


class TooManyRequests(ReduxqError, code="RATE_LIMIT_EXCEEDED"):
    """Too many requests."""

    def __init__(self, message: str | None = None, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after  #: seconds until trying again may help


class Unavailable(ReduxqError, code="SERVICE_UNAVAILABLE"):
    """The service cannot be reached right now."""

    retryable = True
    retry_after: ClassVar[int] = 2  #: seconds until a client may try again


class RecordsUnavailable(Unavailable):
    """The records server cannot be reached."""


class StillRunning(Unavailable, code="STILL_RUNNING"):
    """The variations are not ready yet; an SDK's retry, or the same Idempotency-Key again, waits for the same job."""

    retry_after = 1


class StorageUnavailable(Unavailable):
    """The object storage cannot be reached."""


class EgressUnavailable(Unavailable):
    """The egress proxy cannot be reached."""


class Misconfigured(ReduxqError, code="MISCONFIGURED"):
    """A setting is missing or wrong."""


class ModelUnavailable(Misconfigured, code="MODEL_UNAVAILABLE"):
    """The model's weights cannot be loaded."""


class JobError(ReduxqError, code="JOB_FAILED"):
    """The job failed."""


class Canceled(JobError, code="CANCELED"):
    """The job was canceled."""


class ContentFlagged(JobError, code="CONTENT_FLAGGED"):
    """The safety checker flagged every variation."""


class DeadlineExceeded(JobError, code="DEADLINE_EXCEEDED"):
    """The job took longer than it may."""


class ModelFailed(JobError, code="MODEL_FAILED"):
    """The model failed while it made the variations."""


class SourceUnusable(JobError, code="SOURCE_UNUSABLE"):
    """The source image can no longer be read."""


class TooManyAttempts(JobError, code="TOO_MANY_ATTEMPTS"):
    """The job's attempts failed too often."""


class UnreadableRecord(ReduxqError, code="UNREADABLE_RECORD"):
    """The job's record cannot be read."""


class LeaseLost(ReduxqError):
    """Another worker owns the job, or it has ended."""


class ShuttingDown(ReduxqError):
    """The worker is shutting down."""


class IllegalTransition(ReduxqError):
    """The job's status does not allow that."""
