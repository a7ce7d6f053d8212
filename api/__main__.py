"""``python -m api``: the submission API."""

import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from shared.errors import ReduxqError
from shared.log import configure_logging
from shared.settings import load_settings


class Server(uvicorn.Server):
    """Uvicorn that lets blocked callers go before it waits for their connections to end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if services := getattr(self._app.state, "services", None):
            services.completions.close()
        super().handle_exit(sig, frame)


def main() -> None:
    """Serve until SIGTERM."""
    try:
        settings = load_settings()
    except ReduxqError as error:
        sys.exit(f"reduxq api: {error.message}")
    configure_logging(settings.log)
    app = create_app(settings)
    config = uvicorn.Config(
        app, host=settings.api.host, port=settings.api.port, log_config=None, timeout_graceful_shutdown=10
    )
    Server(config, app).run()


if __name__ == "__main__":
    main()
