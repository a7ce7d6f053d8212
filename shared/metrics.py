"""The port on which a process tells Prometheus what it has counted, and whoever scales it what it needs."""

import json
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from threading import Thread

from prometheus_client import MetricsHandler, disable_created_metrics

from shared.errors import Misconfigured

Page = Callable[[], object]  #: makes an answer, for JSON; None: nobody knows


def serve(port: int, **pages: Page) -> None:
    """Answer at this port of all addresses from now on, with ``pages`` at their names; 0: not at all.

    Raises:
        Misconfigured: If the port is not to be had.
    """
    if not port:
        return
    disable_created_metrics()  # type: ignore[no-untyped-call]

    class Handler(MetricsHandler):
        timeout = 10  #: seconds for a request to arrive

        def do_GET(self) -> None:  # noqa: N802  the standard library's name
            page = pages.get(self.path.removeprefix("/"))
            if page is None:
                super().do_GET()
                return
            told = page()
            self.send_response(503 if told is None else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        raise Misconfigured(f"port {port} cannot be had for metrics: {error.strerror}") from error
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
