"""The client of a service."""

import re
from collections.abc import Iterator
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Self, TypedDict, Unpack

from reduxq.batches import Batches
from reduxq.config import find_access
from reduxq.connection import ATTEMPTS, Connection
from reduxq.job import Job, read_job

TYPE: Final = "IMAGE_VARIATOR"
MODEL: Final = "black-forest-labs/flux-redux-dev"
TIMEOUT: Final = 60.0  #: seconds without a byte until an attempt is given up
PAGE: Final = 100  #: jobs that one question asks for, the most that are allowed
KEY: Final = re.compile(r"(.*/)?images/\d{4}(_\d\d){5}_\d{3}_[^/]*")  #: an asset's

#: A file's path, its bytes, an open file, an asset's key, or an https URL.
Image = str | PathLike[str] | bytes | BinaryIO


class Parameters(TypedDict, total=False):
    """What variations are to be like; the service has a default for each."""

    num_outputs: int  #: 1 to 4
    aspect_ratio: str  #: ``4:3``, ``16:9``, ...
    megapixels: str  #: ``1`` or ``0.25``
    num_inference_steps: int  #: 1 to 50
    seed: int  #: variation i has seed + i
    format: Literal["webp", "jpg", "png"]
    output_quality: int  #: 1 to 100, for webp and jpg
    disable_safety_checker: bool


class Options(Parameters, total=False):
    """Parameters, and how the job is treated."""

    priority: Literal["normal", "low"]
    webhook: str  #: https URL that is told of the job's end
    webhookEvents: list[Literal["job.started", "job.finished"]]
    maxQueueSeconds: int
    maxRunSeconds: int
    metadata: Any  #: comes back with the record


class Client:
    """A service and a key to it. Threads may share one.

    >>> with reduxq.Client() as client:
    ...     job = client.variations.create("cat.png", num_outputs=2, megapixels="0.25", num_inference_steps=4).wait()
    ...     paths = job.download("variations")
    >>> job.status, len(paths), paths[0].suffix
    ('SUCCESS', 2, '.webp')

    Attributes:
        variations: To ask for variations.
        jobs: To find jobs again.
        batches: Thousands of jobs at a time.

    Args:
        base_url: Of the service, as ``https://images.example.org``.
        api_key: What is left out comes from ``REDUXQ_URL`` and ``REDUXQ_API_KEY``, or from the file that
            ``reduxq login`` writes.
        timeout: Seconds without a byte until an attempt is given up.
        attempts: Of one request, at most; only what may help and cannot happen twice is tried again.
        trust_env: Whether the environment's proxies are used.

    Every method raises the errors of :mod:`reduxq.errors`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        attempts: int = ATTEMPTS,
        trust_env: bool = True,
    ) -> None:
        access = find_access(base_url, api_key)
        self.base_url = access.url
        self.connection = Connection(*access, timeout=timeout, attempts=attempts, trust_env=trust_env)
        self.variations = Variations(self)
        self.jobs = Jobs(self.connection)
        self.batches = Batches(self.connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls that wait in other threads fail."""
        self.connection.close()

    def upload(self, image: Image, name: str | None = None, *, idempotency_key: str | None = None) -> str:
        """Store an image and return its key, which may be varied any number of times; a key or URL stays what it is.

        >>> key = client.upload("cat.png")
        >>> client.upload(key) == key
        True
        """
        if isinstance(image, str) and (image.startswith(("http://", "https://")) or KEY.fullmatch(image)):
            return image
        if isinstance(image, str | PathLike):
            name, content = name or Path(image).name, Path(image).read_bytes()
        else:
            content = image if isinstance(image, bytes) else image.read()
        files = {"asset": (name or "image", content)}
        answer = self.connection.post("/api/assets", files=files, idempotency_key=idempotency_key)
        return str(answer["asset"]["key"])


class Variations:
    """Asks for variations."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, image: Image, *, idempotency_key: str | None = None, **options: Unpack[Options]) -> Job:
        """Ask for variations of an image; the job has only been accepted when this returns.

        >>> with open("cat.png", "rb") as file:
        ...     job = client.variations.create(file, aspect_ratio="16:9", megapixels="0.25", num_inference_steps=4)
        >>> job.wait(timeout=100).status
        'SUCCESS'

        Args:
            image: Uploaded unless it is a key or a URL.
            idempotency_key: The same one within a day gives the same job; one is drawn if there is none.
            options: See :class:`Options`; README's table has what is allowed.
        """
        if unknown := options.keys() - Options.__annotations__.keys():
            raise TypeError(f"{', '.join(sorted(unknown))}: allowed are {', '.join(Options.__annotations__)}")
        chosen: dict[str, Any] = dict(options)
        prompt = {name: chosen.pop(name) for name in Parameters.__annotations__ if name in chosen}
        uploaded = idempotency_key and f"{idempotency_key}:image"  # under another key the job would be another
        prompt["imageUrl"] = self._client.upload(image, idempotency_key=uploaded)
        body = {"type": TYPE, "model": MODEL, "promptObject": prompt, "async": True, **chosen}
        answer = self._client.connection.post("/api/features", json=body, idempotency_key=idempotency_key)
        return Job(self._client.connection, answer["aiRecord"])


class Jobs:
    """Finds the team's jobs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, uuid: str) -> Job:
        """Return a job by its id.

        >>> client.jobs.get("00000000-0000-0000-0000-000000000000")
        Traceback (most recent call last):
        reduxq.errors.NotFound: there is no job 00000000-0000-0000-0000-000000000000
        """
        return Job(self._connection, read_job(self._connection, uuid))

    def list(
        self, *, status: Literal["PROCESSING", "SUCCESS", "FAILURE"] | None = None, limit: int | None = None
    ) -> Iterator[Job]:
        """Give the team's jobs, the newest first, page by page.

        >>> [job.status for job in client.jobs.list(status="SUCCESS", limit=1)]
        ['SUCCESS']
        """
        page = min(PAGE, limit or PAGE)
        found = self._connection.pages("/api/results", "aiRecords", status=status, limit=page)
        return (Job(self._connection, record) for record in islice(found, limit))
