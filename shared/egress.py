"""The way out: all that the service calls on the internet for a client goes through here.

A client must not reach through us what it cannot reach by itself: our servers, our neighbours, a cloud's metadata.
docs/decisions/0006-egress.md says what was considered.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import httpcore
import httpx
import structlog

from shared.errors import EgressFailed, EgressRefused, EgressUnavailable
from shared.pinned import Endpoint, PinnedNetwork
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


class Egress:
    """Calls to URLs that clients name. Calls block; one object is safe to share between threads."""

    def __init__(self, settings: EgressSettings) -> None:
        self._webhooks = settings.webhooks
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
        with self._call("GET", url) as response:
            return _read(response, max_bytes)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send a webhook to an https URL and return the status of its answer; redirects are not followed.

        Raises:
            EgressRefused: If the URL, or an address that its name stands for, must not be called.
            EgressFailed: If its server did not answer in time.
            EgressUnavailable: If the egress proxy does not answer.
        """
        self.check_webhook(url)
        with self._call("POST", url, headers.items(), body) as response:
            next(response.iter_stream(), None)  # so that most servers have said all when we hang up
            return response.status

    def check_webhook(self, url: str) -> None:
        """Refuse a URL that :meth:`post` never takes, whatever its name stands for, which is not looked up.

        Raises:
            EgressRefused: If its form, or the operator, does not allow it.
        """
        if not self._webhooks:
            raise EgressRefused("webhooks are not allowed here")
        self._target(url)

    @contextmanager
    def _call(
        self, method: str, url: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> Iterator[httpcore.Response]:
        until = time.monotonic() + self._seconds
        target = self._target(url)
        sent: list[tuple[str, str | bytes]] = [("Host", target.netloc), *HEADERS, *headers]
        with (
            _translated_errors(),
            self._pool(target, until) as pool,
            pool.stream(method, _as_httpcore(target), headers=sent, content=body) as response,
        ):
            yield response

    def _target(self, url: str) -> httpx.URL:
        target = _parse(url)
        if self._proxy or not self._networks:
            _require_port(target.port or PORT)
        return target

    def _pool(self, url: httpx.URL, until: float) -> httpcore.ConnectionPool:
        """Return a pool for one call, so that no connection outlives the check of its address."""
        host, port = url.raw_host.decode("ascii"), url.port or PORT
        if self._proxy is None:
            network = PinnedNetwork(self._endpoints(host, port, until), until, EgressFailed)
            return httpcore.ConnectionPool(ssl_context=self._tls, network_backend=network)
        network = PinnedNetwork([(self._proxy.url.host, self._proxy.url.port or 80)], until, EgressUnavailable)
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
        host = url.host  # decoded here, and not every name that can be parsed can be
        url.raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise EgressRefused("is not a URL") from error
    if url.scheme != "https" or not host:
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
