"""Clients that send batches, and have them canceled and tried again."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.requests import Request

from api.batches import cancel_batch, create_batch, retry_batch
from api.services import Services
from shared.errors import TooManyRequests, Unavailable
from shared.ids import BatchId
from tests.sim.clients import CALLER, NAMED, SEEDS, Clients, Kind

NUMBERS: Final = 100  #: from here on numbers are those of bundles


@dataclass(frozen=True)
class Bundle:
    """A batch that a client wants."""

    number: int
    kinds: tuple[Kind, ...]  #: of its items
    body: bytes

    @classmethod
    def drawn(cls, number: int, chosen: Any, *, poison: bool) -> "Bundle":
        few = chosen.choice((1, 3, 6))
        kinds = tuple(chosen.choices((Kind.HARMLESS, Kind.POISON, Kind.INDECENT), (20, poison, 2), k=few))
        lines: list[Any] = [
            {"customId": kind, "seed": SEEDS[kind], "num_inference_steps": chosen.choice((1, 3))} for kind in kinds
        ]
        same = {"imageUrl": NAMED, "format": "png", "megapixels": "0.25"}
        header: dict[str, Any] = {"defaults": same, "priority": chosen.choice(("low", "normal"))}
        if chosen.random() < 0.3:
            header["webhook"] = "https://receiver.example"
        lines += chosen.choice(([], [], ["no item"], [{"imageUrl": "images/missing.png"}]))
        return cls(number, kinds, b"\n".join(json.dumps(line).encode() for line in (header, *lines)))


def visit(clients: Clients, bundle: Bundle) -> None:
    """Send a batch until it stands, and perhaps change one's mind about it, more than once."""
    world, checks = clients.world, clients.checks
    world.wait(world.random.uniform(0, 6))
    batch_id = _send(clients, bundle)
    for _ in range(world.random.choice((0, 0, 1, 2))):
        world.wait(world.random.choice((0.0, 0.1, 1.0, 5.0, 20.0)))
        route = world.random.choice((cancel_batch, retry_batch))
        if route is cancel_batch:
            checks.canceling.add(batch_id)
        change = partial(_change, route, batch_id)
        while (error := clients.ask("change a batch", change).error) and isinstance(error, Unavailable):
            pass
        checks.require(error is None, f"batch {batch_id} cannot be changed: {error!r}")


def _send(clients: Clients, bundle: Bundle) -> BatchId:
    while True:
        answer = clients.ask(f"batch {bundle.number}", partial(_create, bundle))
        if answer.error is None:
            return BatchId(answer.result["batch"]["uuid"])
        again = isinstance(answer.error, Unavailable | TooManyRequests)
        clients.checks.require(again, f"batch {bundle.number} is refused: {answer.error!r}")


async def _create(bundle: Bundle, services: Services) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bundle.body, "more_body": False}

    headers = [(b"idempotency-key", f"batch {bundle.number}".encode())]
    state = {"request_id": str(bundle.number)}
    request = Request({"type": "http", "method": "POST", "headers": headers, "state": state}, receive)
    return await create_batch(request, CALLER, services)


async def _change(route: Any, batch_id: BatchId, services: Services) -> Any:
    return await route(batch_id, CALLER, services)
