"""The way out: all that the service calls on the internet for a client goes through here.

A client must not reach through us what it cannot reach by itself: our servers, our neighbours, a cloud's metadata.
docs/decisions/0006-egress.md says what was considered.
"""

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

import httpcore
import httpx
import structlog

from shared.errors import EgressFailed, EgressRefused, EgressUnavailable, ReduxqError
from shared.settings import EgressSettings

log = structlog.get_logger(__name__)

PORT: Final = 443
OK: Final = 200  #: HTTP's status for a whole body
#: A body is taken as it comes: one that is not inflated cannot be a bomb.
HEADERS: Final = (("Accept-Encoding", "identity"), ("Connection", "close"), ("User-Agent", "reduxq"))
RESOLVERS: Final = 8  #: names looked up at a time

UNICAST: Final = IPv6Network("2000::/3")  #: all that IANA has given out of IPv6's public addresses
NAT64: Final = IPv6Network("64:ff9b::/96")  #: RFC 6052
#: Not public, though older versions of ipaddress say so: IETF's protocols, 6to4 (it can embed any address), examples.
SPECIAL: Final = tuple(ip_network(text) for text in ("192.0.0.0/24", "2002::/16", "3fff::/20"))

Address = IPv4Address | IPv6Address
Endpoint = tuple[str, int]  # host or address, port


class Egress:
    """Calls to URLs that clients name. Calls block; one object is safe to share between threads."""

    def __init__(self, settings: EgressSettings) -> None:
        self._networks = settings.allowed_networks
        self._seconds = settings.timeout_seconds.total_seconds()
        self._proxy = httpx.Proxy(settings.proxy.get_secret_value()) if settings.proxy else None
        self._tls = ssl.create_default_context()
        self._resolvers = ThreadPoolExecutor(RESOLVERS, "egress-resolver")

    def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """Return what an https URL leads to; redirects are not followed.

        Raises:
            EgressRefused: If the URL, or an address that its name stands for, must not be called.
            EgressFailed: If its server did not send at most ``max_bytes`` with status 200 in time.
            EgressUnavailable: If the egress proxy does not answer.
        """
        until = time.monotonic() + self._seconds
        target = _parse(url)
        with (
            _translated_errors(),
            self._pool(target, until) as pool,
            pool.stream("GET", _as_httpcore(target), headers=[("Host", target.netloc), *HEADERS]) as response,
        ):
            return _read(response, max_bytes)

    def _pool(self, url: httpx.URL, until: float) -> httpcore.ConnectionPool:
        """Return a pool for one call, so that no connection outlives the check of its address."""
        host, port = url.raw_host.decode("ascii"), url.port or PORT
        if self._proxy is None:
            network = _Network(self._endpoints(host, port, until), until, EgressFailed)
            return httpcore.ConnectionPool(ssl_context=self._tls, network_backend=network)
        _require_port(port)
        network = _Network([(self._proxy.url.host, self._proxy.url.port or 80)], until, EgressUnavailable)
        return httpcore.HTTPProxy(
            str(self._proxy.url), self._proxy.raw_auth, ssl_context=self._tls, network_backend=network
        )

    def _endpoints(self, host: str, port: int, until: float) -> list[Endpoint]:
        """Return where the host is; one address that must not be called is enough to refuse it."""
        looking = self._resolvers.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = looking.result(max(until - time.monotonic(), 0))
        except OSError as error:
            raise EgressFailed("the URL's host has no public address") from error
        addresses = [ip_address(entry[4][0]) for entry in found]
        for address in addresses:
            self._check(host, address, port)
        return [(str(address), port) for address in addresses]

    def _check(self, host: str, address: Address, port: int) -> None:
        meant = _unwrapped(address)
        if any(meant in network for network in self._networks):
            return
        _require_port(port)
        if not _is_public(meant):
            log.info("refused to call", host=host, address=str(address))
            raise EgressRefused("the URL's host has no public address")


def _parse(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
        url.raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise EgressRefused("is not a URL") from error
    if url.scheme != "https" or not url.host:
        raise EgressRefused("the URL must start with https:// and name a host")
    if url.userinfo:
        raise EgressRefused("the URL must not contain a user name or password")
    if url.port is not None and not 0 < url.port < 2**16:
        raise EgressRefused("the URL's port does not exist")
    return url


def _as_httpcore(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _require_port(port: int) -> None:
    if port != PORT:
        raise EgressRefused(f"the URL's port must be {PORT}")


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that a NAT64 gateway makes of an IPv6 one; else the address."""
    if isinstance(address, IPv6Address) and address in NAT64:
        return IPv4Address(address.packed[-4:])
    return address


def _is_public(address: Address) -> bool:
    if address.version == 6 and address not in UNICAST:  # noqa: PLR2004  IPv6
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in SPECIAL)


def _read(response: httpcore.Response, max_bytes: int) -> bytes:
    if response.status // 100 == 3:  # noqa: PLR2004  HTTP's redirects
        raise EgressFailed("the URL leads to another one, and redirects are not followed")
    if response.status != OK:
        raise EgressFailed(f"the URL's server answered {response.status}")
    if httpx.Headers(response.headers).get("Content-Encoding", "identity").lower() != "identity":
        raise EgressFailed("the URL's server compresses what it was asked to send as it is")
    body = bytearray()
    for part in response.iter_stream():
        body += part
        if len(body) > max_bytes:
            raise EgressFailed(f"the URL leads to more than {max_bytes} bytes")
    return bytes(body)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise our own error for what httpcore says; it must not tell where a name leads inside the network."""
    try:
        yield
    except httpcore.ProxyError as error:
        if str(error).startswith("5"):  # it tried; Smokescreen refuses with 407
            raise EgressFailed from error
        raise EgressRefused("the egress proxy refuses the URL's host") from error
    except httpcore.TimeoutException as error:
        raise EgressFailed("the URL's server took too long") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        if isinstance(error.__context__, ssl.SSLCertVerificationError):
            why = error.__context__.verify_message
            raise EgressFailed(f"the certificate of the URL's server is not valid: {why}") from error
        raise EgressFailed from error


class _Network(httpcore.NetworkBackend):
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
