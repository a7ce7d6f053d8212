"""The bucket: sources and variations as objects in any S3-compatible storage."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import quote, unquote, urlsplit

import boto3
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_expect_header
from prometheus_client import Counter, Histogram

from shared.errors import Misconfigured, NotFound, StorageUnavailable
from shared.ids import AssetKey
from shared.settings import StorageSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
REFUSED: Final = frozenset({401, 403})  #: statuses
DENIED: Final = frozenset({"ExpiredToken", "InvalidToken", "NoSuchBucket"})  #: as well, with other statuses

BUCKETS: Final = (0.01, 0.03, 0.1, 0.3, 1, 3, 10)  #: seconds
SECONDS: Final = Histogram("reduxq_storage_seconds", "Calls of the object storage", ["operation"], buckets=BUCKETS)
ERRORS: Final = Counter("reduxq_storage_errors", "Calls that it refused or did not answer", ["operation"])

AGENT: Final = "reduxq"

#: Newer boto3 adds checksums that other servers do not know, and that break ranged reads.
CONFIG: Final = Config(
    signature_version="s3v4",
    s3={"addressing_style": "path"},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    connect_timeout=3,
    read_timeout=15,
    user_agent=AGENT,  # the usual one is put together twice for each call, a tenth of its time
)


class ObjectStore:
    """Objects under their keys. Calls block; clients are safe to share between threads.

    Args:
        settings: Where they are.
        tries: How often boto3's client makes a call before it fails; one takes 15 s when the server is frozen. Those
            that pass the client by are made once before that, and if this is 1 and nothing answers only once.
    """

    def __init__(self, settings: StorageSettings, *, tries: int = 3) -> None:
        self._settings = settings
        self._tries = tries
        self._config = CONFIG.merge(Config(retries={"mode": "standard", "total_max_attempts": tries}))
        self.bucket = settings.bucket
        own = settings.access_key, settings.secret_key
        access_key, secret_key = (secret.get_secret_value() if secret else None for secret in own)
        self._session = boto3.session.Session(access_key, secret_key, region_name=settings.region)
        self._credentials = self._session.get_credentials()
        self._client = self._connect(settings.endpoint)

    def require_writable(self) -> None:
        """Fail unless objects can be written and deleted.

        Raises:
            StorageUnavailable, Misconfigured, NotFound: As the server says.
        """
        key = AssetKey(f"{self._settings.prefix}ready")
        self.put(key, b"", "text/plain")
        self.delete(key)

    def put(self, key: AssetKey, body: BinaryIO | bytes, content_type: str) -> str:
        """Store an object and return its ETag, quotes included; after an error it may be there or not, but whole."""
        with _call("put"):
            answer = self._ask("PUT", key, body, {"Content-Type": content_type}) if isinstance(body, bytes) else None
            if answer and not answer.content and (etag := answer.headers.get("ETag")):  # S3 may say 200, then an error
                return etag
            return self._client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)["ETag"]

    def get(self, key: AssetKey) -> bytes:
        """Return an object's bytes.

        Raises:
            NotFound: If there is no such object.
        """
        with _call("get"):
            if answer := self._ask("GET", key):
                return answer.content
            return self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def delete(self, key: AssetKey) -> None:
        """Remove an object; one that does not exist is no error."""
        with _call("delete"):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def sign(self, key: AssetKey, lasts: timedelta | None = None, *, to_keep: bool = False) -> str:
        """Return a link, as the clients reach it, that works without a key for the settings' time or ``lasts``.

        With ``to_keep`` a browser saves what it leads to, even from a page of another origin, instead of showing it.
        """
        kept = {"response-content-disposition": f'attachment; filename="{key.rpartition("/")[2]}"'} if to_keep else {}
        request = AWSRequest("GET", self.location(key), params=kept)
        seconds = int((lasts or self._settings.link_seconds).total_seconds())
        # The client's own way takes three times as long.
        S3SigV4QueryAuth(self._frozen, "s3", self._settings.region, seconds).add_auth(request)  # type: ignore[arg-type]
        return str(request.url)

    def location(self, key: AssetKey) -> str:
        """Return the object's address, as the clients reach it, without a signature."""
        return self._address(self._public_endpoint, key)

    def _address(self, endpoint: str, key: AssetKey) -> str:
        return f"{endpoint.rstrip('/')}/{self.bucket}/{quote(key)}"

    def _ask(
        self, method: str, key: AssetKey, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AWSResponse | None:
        """Make a call by the parts of the client, whose own way takes twice the time: docs/decisions/0016.

        Returns:
            The answer, a success and whole; None: let the client see what is the matter.

        Raises:
            BotoCoreError: If nothing answers the only try.
        """
        address = self._address(self._client.meta.endpoint_url, key)
        request = AWSRequest(method, address, {"User-Agent": AGENT, **(headers or {})}, body)
        S3SigV4Auth(self._frozen, "s3", self._settings.region).add_auth(request)  # type: ignore[arg-type]
        try:
            answer: AWSResponse = self._client._endpoint.http_session.send(request.prepare())  # type: ignore[attr-defined]  # noqa: SLF001
        except BotoCoreError:
            if self._tries > 1:
                return None
            raise
        size = str(len(answer.content))
        whole = answer.headers.get("Content-Length", size) == size  # the session does not compare them
        return answer if answer.status_code == HTTPStatus.OK and whole else None

    @property
    def _frozen(self) -> ReadOnlyCredentials | None:
        return self._credentials.get_frozen_credentials() if self._credentials else None

    def key_of(self, url: str) -> AssetKey | None:
        """Return the key that one of our locations or presigned links points to; None for any other text."""
        try:
            here, there = urlsplit(self._public_endpoint), urlsplit(url)
        except ValueError:
            return None
        start = f"{here.path}/{self.bucket}/"
        if (there.scheme, there.netloc) != (here.scheme, here.netloc) or not there.path.startswith(start):
            return None
        return AssetKey(unquote(there.path.removeprefix(start)))

    @cached_property
    def _public_client(self) -> "S3Client":
        return self._connect(self._settings.public_endpoint or self._settings.endpoint)

    @cached_property
    def _public_endpoint(self) -> str:
        return self._public_client.meta.endpoint_url.rstrip("/")

    def _connect(self, endpoint: str | None) -> "S3Client":
        client = self._session.client("s3", endpoint_url=endpoint, config=self._config)
        # It would ask before it sends a body, and wait a second for servers that do not answer that.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client


@contextmanager
def _call(operation: str) -> Iterator[None]:
    """Count and measure a call; an object that is not there is no error."""
    errors = ERRORS.labels(operation).count_exceptions((StorageUnavailable, Misconfigured, ClientError))
    with SECONDS.labels(operation).time(), errors, _translated_errors():
        yield


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise our own error for what we understand; every other error passes as it is."""
    try:
        yield
    except ClientError as error:
        code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in MISSING:
            raise NotFound(f"the object storage has no such object: {error}") from error
        if status in REFUSED or code in DENIED:
            raise Misconfigured(f"the object storage refuses us: {error}") from error
        if status >= 500 or code in {"SlowDown", "RequestTimeout"}:  # noqa: PLR2004  HTTP's server errors
            raise StorageUnavailable(f"the object storage cannot serve: {error}") from error
        raise
    except BotoCoreError as error:
        raise StorageUnavailable(f"the object storage does not answer: {error}") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
