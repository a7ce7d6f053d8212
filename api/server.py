"""Uvicorn, serving the API until it is told to stop."""

import gc
import signal
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from shared.metrics import serve as serve_metrics
from shared.settings import Settings

GARBAGE: Final = 20_000  #: new containers before Python looks for cycles among them


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
    config = uvicorn.Config(app, host=host, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=10)
    Server(config, app).run()
