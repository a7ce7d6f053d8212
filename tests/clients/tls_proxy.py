"""An HTTPS proxy that answers for every host: it ends the TLS and hands the bytes, unchanged, to one plain HTTP server.

For clients with a fixed https host that take a proxy and trust the authority named by ``SSL_CERT_FILE``.
"""

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import trustme
from anyio.from_thread import start_blocking_portal


@dataclass
class TlsProxy:
    """A running proxy."""

    target: str  #: URL of the plain HTTP server
    authority: Path  #: PEM file that a client must trust
    url: str = ""
    hosts: list[str] = field(default_factory=list)  #: host:port of every connection asked for
    _ca: trustme.CA = field(default_factory=trustme.CA)

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, host, _ = head.split(b" ", 2)
            assert method == b"CONNECT", head
            self.hosts.append(host.decode())
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.start_tls(self._context(host.decode().rpartition(":")[0]))
            server = urlsplit(self.target)
            from_server, to_server = await asyncio.open_connection(server.hostname, server.port)
            await asyncio.gather(_pass_on(reader, to_server), _pass_on(from_server, writer))
        writer.close()

    def _context(self, host: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._ca.issue_cert(host).configure_cert(context)
        return context


async def _pass_on(source: StreamReader, sink: StreamWriter) -> None:
    try:
        while data := await source.read(2**16):
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()


@contextmanager
def tls_proxy(target: str, folder: Path) -> Iterator[TlsProxy]:
    """Run a proxy to the HTTP server at ``target``; its authority's certificate lies in ``folder``."""
    proxy = TlsProxy(target, folder / "authority.pem")
    proxy._ca.cert_pem.write_to_path(str(proxy.authority))
    with start_blocking_portal() as portal:
        server = portal.call(partial(asyncio.start_server, proxy.serve, "127.0.0.1", 0))
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
        portal.call(server.close)
