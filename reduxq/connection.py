"""HTTP to one service: its key, its errors, and asking again without anything happening twice."""

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from math import ceil, inf
from threading import Event as Flag
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from uuid import uuid4

import httpx

from reduxq.errors import TimedOut, TooManyRequests, Unavailable, error_of

ATTEMPTS: Final = 6  #: of one request; their pauses make 16 s, in which a service can be started anew
FAULT: Final = 500  #: status of an answer that failed by itself, while the service is there
LONGEST_PAUSE: Final = 60.0  #: seconds; a service that asks for more gets no other attempt
WAIT: Final = 30  #: seconds that one question may wait for an end, half of what the service allows
SILENCE: Final = 40.0  #: seconds without a byte after which a stream is given up; its heartbeat is 15 s

T = TypeVar("T")


class Event(NamedTuple):
    """News of a job."""

    name: str  #: ``queued``, ``running`` or ``finished``
    data: dict[str, Any]
    id: str = ""


class Connection:
    """A pool of connections that threads may share.

    Args:
        base_url: Of the service, without ``/api``.
        api_key: Goes to the service alone, never to where its links lead.
        timeout: Seconds without a byte until an attempt is given up.
        attempts: Of one request, at most.
        trust_env: Whether the environment's proxies are used.
    """

    def __init__(self, base_url: str, api_key: str, *, timeout: float, attempts: int, trust_env: bool) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"API-KEY": api_key}
        self._http = httpx.Client(timeout=timeout, trust_env=trust_env)
        self._attempts = attempts
        self._closed = Flag()

    def close(self) -> None:
        """Close the connections; whoever waits for another attempt in another thread gives up."""
        self._closed.set()
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON at a path; parameters that are None are left out."""
        chosen = {name: value for name, value in parameters.items() if value is not None}
        return _decoded(self._ask("GET", self.base_url + path, headers=self._headers, params=chosen))

    def page(self, path: str, name: str, **parameters: Any) -> tuple[list[dict[str, Any]], str | None]:
        """Return what a page of a list holds under a name, and the cursor after it; None at the end."""
        page = self.get(path, **parameters)
        return page[name], page["nextCursor"]

    def pages(self, path: str, name: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Give all that a list holds."""
        cursor, more = None, True
        while more:
            found, cursor = self.page(path, name, cursor=cursor, **parameters)
            yield from found
            more = cursor is not None

    def post(self, path: str, *, idempotency_key: str | None = None, **content: Any) -> Any:
        """Send something once, however many attempts that takes, and return the JSON of the answer."""
        headers = self._headers | {"Idempotency-Key": idempotency_key or str(uuid4()), **content.pop("headers", {})}
        return _decoded(self._ask("POST", self.base_url + path, headers=headers, **content))

    def download(self, link: str) -> bytes:
        """Return what a presigned link leads to."""
        return self._ask("GET", link).content

    def events(self, path: str, last_id: str) -> Iterator[Event]:
        """Give the server-sent events of one stream, without another attempt.

        Raises:
            Unavailable: If the stream breaks.
            ReduxqError: If it is refused.
        """
        headers = self._headers | ({"Last-Event-ID": last_id} if last_id else {})
        try:
            with self._http.stream("GET", self.base_url + path, headers=headers, timeout=SILENCE) as answer:
                if not answer.is_success:
                    answer.read()
                    raise error_of(answer)
                yield from _parsed(answer.iter_lines())
        except (httpx.TransportError, RuntimeError) as error:  # RuntimeError: closed by another thread
            raise Unavailable(f"the stream broke: {error}") from error

    def pause(self, attempt: int, retry_after: float | None = None) -> None:
        """Wait before another attempt: what the service asked for, or twice as long each time, and never in step.

        Raises:
            Unavailable: If the connection is closed meanwhile.
        """
        least = min(0.5 * 2**attempt, 8.0) if retry_after in {None, inf} else retry_after
        if self._closed.wait(least * random.uniform(1, 1.25)):  # noqa: S311  no secret
            raise Unavailable("the client was closed")

    def outlast(self, ask: Callable[[], T], until: float = inf) -> T:
        """Return what ``ask`` does, once the service is there to answer, however long it is away.

        Raises:
            Unavailable, TooManyRequests: If it is not by that moment, says itself that no waiting helps, or fails at
                this question alone.
        """
        failures = 0
        while True:
            try:
                return ask()
            except (TooManyRequests, Unavailable) as error:
                wanted, left = error.retry_after, until - monotonic()
                if wanted == inf or error.status == FAULT or left <= 0:
                    raise
                self.pause(failures, wanted if wanted is None else min(wanted, left))
                failures += 1

    def _ask(self, method: str, url: str, **content: Any) -> httpx.Response:
        """Make attempts until one succeeds."""
        attempt = 0
        while True:
            try:
                return self._attempt(method, url, **content)
            except (TooManyRequests, Unavailable) as error:
                attempt += 1
                if attempt >= self._attempts or (error.retry_after or 0) > LONGEST_PAUSE:
                    raise
                self.pause(attempt - 1, error.retry_after)

    def _attempt(self, method: str, url: str, **content: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, url, **content)
        except (httpx.TransportError, RuntimeError, OSError) as error:  # the last two: closed by another thread
            if self._closed.is_set():
                raise Unavailable("the client was closed") from error
            raise Unavailable(f"{httpx.URL(url).host} does not answer: {error or type(error).__name__}") from error
        if not answer.is_success:
            raise error_of(answer)
        return answer


class Awaited(Protocol):
    """What comes to an end."""

    @property
    def finished(self) -> bool:
        """Whether it has."""

    def refresh(self, *, wait: int = 0) -> object:
        """Ask how it is, at its end or so many seconds later."""


def wait_for(what: Awaited, connection: Connection, timeout: float | None) -> None:
    """Ask until it has ended, seldom, for the service itself waits; but it may not, and then not in step.

    A service that is away is waited for, too: what it accepted goes on.

    Raises:
        TimedOut: If so many seconds were not enough; Unavailable, if the service does not answer then.
    """
    until = inf if timeout is None else monotonic() + timeout
    while not what.finished:
        began = monotonic()
        if began >= until:
            raise TimedOut(f"{what!r} has not ended within {timeout:g} s; it goes on")
        connection.outlast(partial(what.refresh, wait=ceil(min(WAIT, until - began))), until)
        if not what.finished and monotonic() - began < 1:
            connection.pause(0)


def _decoded(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:  # a proxy's page, or this is no reduxq
        raise Unavailable(f"{answer.url.host} answered {answer.status_code} without the JSON of a reduxq") from error


def _parsed(lines: Iterator[str]) -> Iterator[Event]:
    """Read events as the HTML standard has them; comments, the heartbeat among them, say nothing."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line:
            fields[name] = fields.get(name, "") + value.removeprefix(" ")  # our data has no line ends
        elif "data" in fields:
            yield Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id", ""))
            fields = {}
