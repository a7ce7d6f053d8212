"""Batches: thousands of jobs in one request."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, Self

from reduxq.connection import Connection, wait_for
from reduxq.errors import InvalidRequest, NotFound, TimedOut
from reduxq.files import fetch
from reduxq.job import Job, read_job

ACCEPTING: Final = 300.0  #: seconds without a byte while a manifest is read; 10,000 lines take less than 30
PAGE: Final = 100  #: items that one question asks for

Item = dict[str, Any]
Status = Literal["WAITING", "PROCESSING", "SUCCESS", "FAILURE", "CANCELED"]


class Batch:
    """A batch as the service last told of it; :meth:`refresh` asks again.

    Attributes:
        record: All that the service told.
        uuid: Its id.
        status: ``PROCESSING``, ``SUCCESS`` when all items have ended, whether well or not, or ``CANCELED``.
        finished: Whether all items have ended.
        counts: Items: ``total``, ``waiting``, ``processing``, ``succeeded``, ``failed``, ``canceled``.
    """

    def __init__(self, connection: Connection, record: dict[str, Any]) -> None:
        self._connection = connection
        self._learn(record)

    def __repr__(self) -> str:
        return f"<Batch {self.uuid} {self.status}>"

    def _learn(self, record: dict[str, Any]) -> Self:
        self.record = record
        self.uuid: str = record["uuid"]
        self.status: str = record["status"]
        self.finished = self.status != "PROCESSING"
        self.counts: dict[str, int] = record["counts"]
        return self

    def refresh(self, *, wait: int = 0) -> Self:
        """Ask how the batch is, now or at its end, at most ``wait`` seconds later (60 at most)."""
        return self._learn(_read(self._connection, self.uuid, wait=wait or None))

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until every item has ended; items that failed raise nothing, see :attr:`counts` and :meth:`results`.

        Raises:
            TimedOut: If that takes more than so many seconds; the batch goes on.
        """
        wait_for(self, self._connection, timeout)
        return self

    def items(self, *, status: Status | None = None) -> Iterator[Item]:
        """Give the items in the manifest's order: ``line``, ``customId``, ``status``, ``recordId``, ``error``."""
        return self._connection.pages(f"/api/batches/{self.uuid}/items", "items", status=status, limit=PAGE)

    def cancel(self) -> Self:
        """Cancel what has not ended."""
        return self._learn(self._connection.post(f"/api/batches/{self.uuid}/cancel")["batch"])

    def retry(self) -> Self:
        """Let the items that failed or were canceled wait again."""
        return self._learn(self._connection.post(f"/api/batches/{self.uuid}/retry")["batch"])

    def results(self) -> Iterator[Item]:
        """Give the items of a batch that has ended as :meth:`items` does, with ``urls``, ``seeds``, ``flagged`` too.

        Raises:
            TimedOut: If it has not ended.
        """
        if (link := self.refresh().record["resultsUrl"]) is None:
            raise TimedOut(f"{self!r} has not ended; wait for it")
        return map(json.loads, self._connection.download(link).splitlines())

    def download(self, folder: str | Path) -> list[Path]:
        """Write all variations of a batch that has ended into a folder and return their paths.

        They are called ``<line>-1.webp`` and so on, by the line of their item in the manifest.

        Raises:
            NotFound: If some were deleted; the others are there.
        """
        paths, gone = list[Path](), list[str]()
        for item in self.results():
            try:
                paths += self.fetch(item, folder, str(item["line"])) if item["status"] == "SUCCESS" else []
            except NotFound:
                gone.append(str(item["line"]))
        if gone:
            raise NotFound(f"the variations of the items {', '.join(gone)} were deleted")
        return paths

    def fetch(self, item: Item, folder: str | Path, stem: str) -> list[Path]:
        """Write the variations of an item that succeeded, as :meth:`Job.download` does.

        Raises:
            NotFound: If they were deleted.
        """
        with suppress(KeyError, InvalidRequest, NotFound):  # it has no links yet, or they have run out
            return fetch(self._connection, item["urls"], Path(folder), stem)
        return Job(self._connection, read_job(self._connection, item["recordId"])).download(folder, stem)

    def page(self, cursor: str | None) -> tuple[list[Item], str | None]:
        """Return the items after a cursor, None being the start, and the cursor after them; None is the end."""
        return self._connection.page(f"/api/batches/{self.uuid}/items", "items", cursor=cursor, limit=PAGE)


class Batches:
    """Sends batches and finds them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        items: str | PathLike[str] | Iterable[Mapping[str, Any]],
        *,
        defaults: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Batch:
        """Send a batch; one request, whatever the number of items.

        >>> key = client.upload("cat.png")
        >>> items = [{"imageUrl": key, "seed": seed, "customId": f"cat {seed}"} for seed in (1, 2)]
        >>> batch = client.batches.create(items, defaults={"megapixels": "0.25", "num_inference_steps": 4}).wait()
        >>> batch.counts["succeeded"], [(item["customId"], item["seeds"]) for item in batch.results()]
        (2, [('cat 1', [1]), ('cat 2', [2])])

        Args:
            items: Parameters of each job, ``imageUrl`` among them, with a ``customId`` of yours if you like; or the
                path of a JSONL file of them.
            defaults: Parameters for all items that do not have them.
            idempotency_key: The same one within a day gives the same batch; one is drawn if there is none.
            options: ``priority`` (``low`` unless it is ``normal``), ``webhook``, ``metadata``.
        """
        header = {"defaults": dict(defaults or {}), **options} if defaults or options else None
        content = manifest(items, header)
        return self.send(content, idempotency_key)

    def send(self, manifest: bytes, idempotency_key: str | None = None) -> Batch:
        """Send a manifest as it is."""
        answer = self._connection.post(
            "/api/batches",
            idempotency_key=idempotency_key,
            content=manifest,
            headers={"Content-Type": "application/jsonl"},
            timeout=ACCEPTING,
        )
        return Batch(self._connection, answer["batch"])

    def get(self, uuid: str) -> Batch:
        """Return a batch by its id."""
        return Batch(self._connection, _read(self._connection, uuid))

    def list(self) -> Iterator[Batch]:
        """Give the team's batches, the newest first."""
        return (Batch(self._connection, record) for record in self._connection.pages("/api/batches", "batches"))


def _read(connection: Connection, uuid: str, *, wait: int | None = None) -> dict[str, Any]:
    record: dict[str, Any] | None = connection.get(f"/api/batches/{uuid}", wait=wait)["batch"]
    if record is None:
        raise NotFound(f"there is no batch {uuid}")
    return record


def manifest(items: str | PathLike[str] | Iterable[Mapping[str, Any]], header: Mapping[str, Any] | None) -> bytes:
    """Return the JSONL that a batch is."""
    first = [json.dumps(header)] if header else []
    if isinstance(items, str | PathLike):
        return "\n".join(first).encode() + b"\n" * len(first) + Path(items).read_bytes()
    return "".join(f"{line}\n" for line in (*first, *map(json.dumps, items))).encode()
