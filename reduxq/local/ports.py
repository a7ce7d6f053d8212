"""Free ports on the loopback address."""

import random
import socket
from collections.abc import Iterable, Mapping
from typing import Final

from shared.errors import Misconfigured

HOST: Final = "127.0.0.1"
#: Below the ports Linux gives to outgoing connections (32768 and up): a client that reconnects again and again to a
#: part that is being restarted could otherwise be given that very port, connect to itself and keep the part out.
CANDIDATES: Final = range(20_000, 32_000)


def draw_ports(names: Iterable[str], wished: Mapping[str, int]) -> dict[str, int]:
    """Return different ports on which nobody listens, by name: the wished one where it is free."""
    drawn: dict[str, int] = {}
    for name in names:
        candidates = (wished.get(name, 0), *random.sample(CANDIDATES, len(CANDIDATES)))
        drawn[name] = next(port for port in candidates if port and port not in drawn.values() and not _refusal(port))
    return drawn


def require_free(port: int) -> int:
    """Return the port if one can listen on it.

    Raises:
        Misconfigured: If not.
    """
    if refusal := _refusal(port):
        raise Misconfigured(f"cannot listen on {HOST}:{port}: {refusal}; choose another port, or 0 for any free one")
    return port


def _refusal(port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.strerror
    return None
