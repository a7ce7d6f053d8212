"""TLS servers on loopback that a name of their own leads to, well-behaved and hostile."""

import re
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import trustme

NAME = "pictures.test"
REAL_GETADDRINFO = socket.getaddrinfo

Handler = Callable[[socket.socket], object]


class Names:
    """A resolver that keeps what it was asked, and answers for NAME in turn; an answer too few is an IndexError."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        self.asked.append(host)
        given = self.answers.pop(0) if host == NAME else [host]
        return [entry for address in given for entry in REAL_GETADDRINFO(address, port, *args, **kwargs)]


@contextmanager
def listening(handle: Handler) -> Iterator[int]:
    """Answer each connection by ``handle`` in a thread and give the port."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the client may leave: most of these tests are about that
                handle(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Connection) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class Pictures:
    """Starts TLS servers that NAME leads to, with certificates that the process trusts."""

    def __init__(self, authority: trustme.CA, names: Names, stack: ExitStack) -> None:
        self._authority, self._names, self._stack = authority, names, stack
        self.requests: list[bytes] = []
        self.called: list[str | None] = []  #: the names that the TLS handshakes asked for

    def serve(self, answer: Handler, *, certified: str = NAME) -> str:
        """Start a server and return its URL."""
        port = self._stack.enter_context(listening(self.handler(answer, certified)))
        self._names.answers.append(["127.0.0.1"])
        return f"https://{NAME}:{port}/a%20b.png?c=d"

    def handler(self, answer: Handler, certified: str = NAME) -> Handler:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.sni_callback = lambda _, name, __: self.called.append(name)
        self._authority.issue_cert(certified).configure_cert(tls)

        def handle(connection: socket.socket) -> None:
            with tls.wrap_socket(connection, server_side=True) as secured:
                self.requests.append(_request(secured))
                answer(secured)

        return handle


def _request(connection: socket.socket) -> bytes:
    """Read a whole request."""
    text = connection.recv(65536)
    if length := re.search(rb"\r\nContent-Length: (\d+)\r\n", text):
        while len(text.partition(b"\r\n\r\n")[2]) < int(length[1]) and (more := connection.recv(65536)):
            text += more
    return text


def reply(body: bytes, *headers: str, status: str = "200 OK") -> Handler:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]).encode()
    return lambda connection: connection.sendall(head + body)


def endlessly(start: bytes, part: bytes, pause: float = 0) -> Handler:
    """Send the start and then the part for as long as somebody listens."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(part)
            time.sleep(pause)

    return answer
