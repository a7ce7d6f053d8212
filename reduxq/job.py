"""A job: one request for variations of one image."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from reduxq.connection import Connection, Event, wait_for
from reduxq.errors import InvalidRequest, JobError, NotFound, TooManyRequests, Unavailable, error_of_job
from reduxq.files import fetch


class Progress(NamedTuple):
    """How far a running job is."""

    step: int  #: that the variations have made, as a mean
    steps: int  #: that each of them makes
    each: list[int]  #: steps that each one has made, if the service tells

    @classmethod
    def read(cls, told: dict[str, Any]) -> Self:
        """Return what a record or an event tells."""
        return cls(told["step"], told["steps"], told.get("each", []))


class Job:
    """A job as the service last told of it; :meth:`refresh` asks again.

    Attributes:
        record: All that the service told, its ``aiRecord``.
        uuid: Its id.
        status: ``PROCESSING``, ``SUCCESS`` or ``FAILURE``.
        finished: Whether it has ended.
        error: Why it did not succeed; None unless it ended so.
        progress: The denoising steps made; None unless they are under way.
        queue_position: 1 is next; None if it is not queued.
        estimated_seconds: Time to its end, as far as the service can tell.
        urls: A link for each variation, which opens without a key; :meth:`refresh` signs new ones.
        seeds: The seed of each variation, without those withheld: once the job has succeeded, one for each link.
        flagged: ``{"seed", "score"}`` of each variation that the safety checker withheld.
        price: ``{"credits", "charged", "usd"}``: what is reserved, and what was charged at the end.
    """

    def __init__(self, connection: Connection, record: dict[str, Any]) -> None:
        self._connection = connection
        self._learn(record)

    def __repr__(self) -> str:
        return f"<Job {self.uuid} {self.status}>"

    def _learn(self, record: dict[str, Any]) -> Self:
        told = record["additionalData"]
        self.record = record
        self.uuid: str = record["uuid"]
        self.status: str = record["status"]
        self.finished = self.status != "PROCESSING"
        failed = self.status == "FAILURE"
        self.error: JobError | None = error_of_job(record["aiRecordDetail"]["resultObject"]) if failed else None
        self.progress = Progress.read(told["progress"]) if told["progress"] else None
        self.queue_position: int | None = told["queuePosition"]
        self.estimated_seconds: float | None = told["estimatedSeconds"]
        self.urls: list[str] = told["temporaryUrls"]
        self.flagged: list[dict[str, Any]] = told["flagged"]
        withheld = {each["seed"] for each in self.flagged}
        self.seeds: list[int] = [seed for seed in told["seeds"] if seed not in withheld]
        self.price: dict[str, Any] = told["price"]
        return self

    def describe(self) -> str:
        """Return in words how far the job is."""
        if error := self.error:
            return f"{error.code}: {error.message}"
        if self.finished:
            return "succeeded"
        if progress := self.progress:
            return f"running, step {progress.step} of {progress.steps}"
        return f"queued, position {self.queue_position}" if self.queue_position else "running, loading the picture"

    def refresh(self, *, wait: int = 0) -> Self:
        """Ask how the job is, now or at its end, at most ``wait`` seconds later (60 at most)."""
        return self._learn(read_job(self._connection, self.uuid, wait=wait or None))

    def wait(self, timeout: float | None = None) -> Self:
        """Wait for the job's end.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            TimedOut: If it has not ended by then; it goes on.
            JobError: If it did not succeed.
        """
        wait_for(self, self._connection, timeout)
        if error := self.error:
            raise error
        return self

    def events(self) -> Iterator[Event]:
        """Tell how the job gets on until it has ended: ``queued``, ``running``, ``finished``.

        The job's own attributes follow. A stream that breaks is taken up where it was; while none can be had, the
        service is asked now and then, however long it is away.

        >>> job = client.variations.create("cat.png", megapixels="0.25", num_inference_steps=4)
        >>> [event.name for event in job.events()][-1]
        'finished'
        """
        last, silent = "", 0
        while not self.finished:
            wanted, silent = None, silent + 1
            try:
                for event in self._connection.events(f"/api/results/{self.uuid}/events", last):
                    last, silent = event.id, 0
                    self._note(event)
                    yield event
            except (TooManyRequests, Unavailable) as error:
                wanted = error.retry_after
            if not self.finished and self._connection.outlast(self.refresh).finished:
                yield Event("finished", {"aiRecord": self.record})
            elif silent:  # or what answered is no stream
                self._connection.pause(silent - 1, wanted)

    def cancel(self) -> Self:
        """End the job; one that has ended stays as it is."""
        return self._learn(self._connection.post(f"/api/results/{self.uuid}/cancel")["aiRecord"])

    def links(self) -> list[str]:
        """Return :attr:`urls`.

        Raises:
            NotFound: If the job succeeded and its variations were deleted since.
        """
        if self.status == "SUCCESS" and (deleted := self.record["additionalData"].get("deletedAt")):
            raise NotFound(f"the variations were deleted at {deleted}")
        return self.urls

    def download(self, folder: str | Path, stem: str | None = None) -> list[Path]:
        """Write the variations into a folder and return their paths.

        They are called ``<stem>-1.webp`` and so on, the stem being the job's uuid unless you say otherwise, so that
        the variations of two jobs never overwrite each other. A file appears when it is whole.

        >>> job = client.variations.create("cat.png", num_outputs=2, megapixels="0.25", num_inference_steps=4).wait()
        >>> [path.name for path in job.download("variations", "cat")]
        ['cat-1.webp', 'cat-2.webp']

        Raises:
            NotFound: If the variations were deleted.
        """
        links = self.links()
        with suppress(InvalidRequest, NotFound):  # they have run out
            return fetch(self._connection, links, Path(folder), stem or self.uuid)
        return fetch(self._connection, self.refresh().links(), Path(folder), stem or self.uuid)

    def _note(self, event: Event) -> None:
        told = dict(event.data)
        if event.name == "finished":
            self._learn(told["aiRecord"])
            return
        told["progress"] = Progress.read(told)._asdict() if event.name == "running" else None
        self._learn({**self.record, "additionalData": {**self.record["additionalData"], "queuePosition": None, **told}})


def read_job(connection: Connection, uuid: str, *, wait: int | None = None) -> dict[str, Any]:
    """Return a job's record.

    Raises:
        NotFound: If there is none.
    """
    record: dict[str, Any] | None = connection.get(f"/api/results/{uuid}", wait=wait)["aiRecord"]
    if record is None:
        raise NotFound(f"there is no job {uuid}")
    return record
