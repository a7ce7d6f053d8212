"""Uvicorn, serving the API until it is told to stop."""

import asyncio
import gc
import signal
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.app import create_app
from shared.metrics import serve as serve_metrics
from shared.settings import Settings

GARBAGE: Final = 20_000  #: new containers before Python looks for cycles among them


class Gathered:
    """A transport that sends with one system call what is written in one turn of the loop: uvicorn's head and body."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._written and not self._transport.is_closing():
            self._transport.write(b"".join(self._written))
        self._written.clear()


class Protocol(HttpToolsProtocol):
    """Uvicorn's HTTP over a :class:`Gathered` transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", Gathered(transport)))


class Server(uvicorn.Server):
    """Uvicorn that lets blocked callers go before it waits for their connections to end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, _: FrameType | None) -> None:
        if services := getattr(self._app.state, "services", None):
            services.completions.close()
        # Not uvicorn's own: it raises the signal again when all is done, and the exit code would tell of a failure.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Serve until SIGTERM."""
    serve_metrics(settings.api.metrics_port)
    app = create_app(settings)
    host, port = settings.api.host, settings.api.port
    # What lives as long as the process is never garbage; a request's own survive the default's 700 allocations.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Protocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing asks who connects
        timeout_graceful_shutdown=10,
    )
    Server(config, app).run()
