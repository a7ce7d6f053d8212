"""A server that answers as a test says."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

#: Of a job that is queued.
EXTRA: dict[str, Any] = {
    "temporaryUrls": [],
    "seeds": [],
    "flagged": [],
    "progress": None,
    "queuePosition": 1,
    "estimatedSeconds": None,
    "price": {},
}


class Answer(NamedTuple):
    """What to answer; no status means hanging up without a word."""

    status: int | None = 200
    body: Any = b""
    headers: Mapping[str, str] = MappingProxyType({})


class Asked(NamedTuple):
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Scripted:
    """Gives its answers in turn, the last one for ever."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers
        self.asked: list[Asked] = []
        self.url = ""

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


@contextmanager
def scripted(*answers: Answer) -> Iterator[Scripted]:
    """Run such a server for the time of the block."""
    script = Scripted(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer, extra = script.answer(Asked(self.command, self.path, headers, body))
            if status is None:
                self.close_connection = True
                return
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815  the library's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refusal(status: int, code: str = "", message: str = "no", **headers: str) -> Answer:
    """What the service answers when it refuses."""
    envelope = {"success": False, "errorCode": code, "message": message, "error": {"message": message, "details": []}}
    return Answer(status, envelope, {name.replace("_", "-"): value for name, value in headers.items()})


def ai_record(status: str = "PROCESSING", **extra: Any) -> dict[str, Any]:
    """What the service tells of a job."""
    record = {"uuid": "u", "status": status, "additionalData": EXTRA | extra, "aiRecordDetail": {"resultObject": []}}
    return {"aiRecord": record}
