"""Connections that lead where a check said, whatever a name stands for by then, and that end at one deadline."""

import ssl
import time
from collections.abc import Sequence
from typing import Any

import httpcore
import structlog

from shared.errors import ReduxqError

log = structlog.get_logger(__name__)

Endpoint = tuple[str, int]  # host or address, port


class PinnedNetwork(httpcore.NetworkBackend):
    """Connects to one of the endpoints, whatever it is asked for, and ends every wait at the deadline.

    TLS and HTTP above it still see the URL's name alone.
    """

    def __init__(self, endpoints: Sequence[Endpoint], until: float, failure: type[ReduxqError]) -> None:
        self._endpoints = endpoints
        self._until = until
        self._failure = failure
        self._plain = httpcore.SyncBackend()

    def connect_tcp(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        """Try each endpoint for its share of the time that is left.

        Raises:
            ReduxqError: The ``failure`` that was asked for, if none takes the connection.
        """
        for tried, (host, port) in enumerate(self._endpoints):
            share = _left(self._until) / (len(self._endpoints) - tried)
            try:
                return _Stream(self._plain.connect_tcp(host, port, share), self._until)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                log.info("cannot connect", host=host, port=port, error=str(error))
        raise self._failure


class _Stream(httpcore.NetworkStream):
    """A connection whose every operation ends at the deadline; httpcore's own limits begin anew with each."""

    def __init__(self, stream: httpcore.NetworkStream, until: float) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, *_: Any, **__: Any) -> bytes:
        return self._stream.read(max_bytes, _left(self._until))

    def write(self, buffer: bytes, *_: Any, **__: Any) -> None:
        self._stream.write(buffer, _left(self._until))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, *_: Any, **__: Any
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(self._until)), self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(until: float) -> float:
    """Return the seconds until then.

    Raises:
        httpcore.ReadTimeout: If there are none.
    """
    left = until - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left
