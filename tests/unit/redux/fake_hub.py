"""A hub on the loopback: enough of its HTTP API for the real client to pull from."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class FakeHub(ThreadingHTTPServer):
    """Serves one set of files as every repository, or refuses them all."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.refusal: tuple[int, str] | None = None  #: HTTP status, X-Error-Code
        self.fetched: set[str] = set()  #: paths whose bytes were asked for

    def stock(self, bundle: Path) -> None:
        """Offer what the real repositories hold, large files that nobody needs among it."""
        for part in ("base", "redux", "safety"):
            for path in (bundle / part).rglob("*.*"):
                self.files[str(path.relative_to(bundle / part))] = path.read_bytes()
        self.files |= dict.fromkeys(
            ("text_encoder_2/model.safetensors", "flux1-dev.safetensors", "README.md"), b"large"
        )
        self.files["LICENSE.md"] = b"FLUX.1 [dev] Non-Commercial License"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        thread = Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.server.refusal:
            status, code = self.server.refusal
            self._answer(status, b"{}", {"X-Error-Code": code})
        elif "/revision/" in path:
            self._answer(200, dumps({"id": path.split("/revision/")[0].removeprefix("/api/models/"), "sha": COMMIT}))
        elif "/tree/" in path:
            self._answer(200, dumps([_entry(name, data) for name, data in self.server.files.items()]))
        else:
            self._send_file(path.partition("/resolve/")[2].partition("/")[2])

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send_file(self, name: str) -> None:
        if name not in self.server.files:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        if self.command == "GET":
            self.server.fetched.add(name)
        data = self.server.files[name]
        self._answer(200, data, {"ETag": f'"{sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def _answer(self, status: int, body: bytes | str, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def _entry(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(data), "oid": sha256(data).hexdigest()[:40]}
