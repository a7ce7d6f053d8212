"""People: they send jobs, send them again when no answer comes, change their minds, and believe what they were told."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from hashlib import sha256
from io import BytesIO
from typing import Any, Final

from PIL import Image

from api.deletion import delete_result
from api.services import Services
from api.sources import Wanted, named_source, stored_source
from api.submission import Draft, report, submit
from api.uploads import Upload
from shared import idempotency, transitions
from shared.errors import InvalidRequest, TooManyRequests, Unavailable
from shared.idempotency import Once
from shared.ids import AssetKey, JobId, KeyId, TeamId, UserId
from shared.images import ImageType
from shared.jobs import Echo, Webhook, WebhookEvent
from shared.keys import ApiKey
from tests.samples import encoded
from tests.sim.actors import ApiProcess, Call, Site
from tests.sim.workers import INDECENT, POISON
from tests.sim.world import Process, World

PATIENCE: Final = (0.03, 1.0, 4.0, 30.0)  #: seconds until a client gives up on a request
PICTURE: Final = encoded(Image.new("RGB", (4, 4), "red"), "PNG")
NAMED: Final = AssetKey("images/named.png")  #: an image of the team
CALLER: Final = ApiKey(
    id=KeyId("key"),
    team_id=TeamId("team"),
    team_name="lab",
    user_id=UserId("user"),
    user_name="Ada",
    digest="",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


class Kind(StrEnum):
    """What becomes of an order's jobs."""

    HARMLESS = "harmless"
    POISON = "poison"  #: kills its worker
    INDECENT = "indecent"  #: the safety checker flags its variations
    HURRIED = "hurried"  #: is of no use after some seconds


#: Seeds of the variations say what the model and the safety checker make of them.
SEEDS: Final = {Kind.HARMLESS: 0, Kind.HURRIED: 0, Kind.POISON: POISON, Kind.INDECENT: INDECENT}
Route = Callable[[Services], Coroutine[Any, Any, Any]]


@dataclass(frozen=True)
class Order:
    """One job that a client wants."""

    number: int
    kind: Kind
    how: str  #: what makes its requests the same: ``keyed``, ``retried``, or ``once``: nothing
    uploads: bool  #: whether the source comes with the request
    draft: Draft

    def once(self, *, again: bool) -> Once | None:
        asked = idempotency.fingerprint(self.number)
        if self.how == "keyed":
            return idempotency.keyed(CALLER.team_id, f"order {self.number}", asked)
        return idempotency.retried(CALLER.id, asked, retry=again) if self.how == "retried" else None

    def source(self, services: Services, once: Once | None) -> Wanted:
        if not self.uploads:
            return named_source(services, CALLER, NAMED, once)
        digest = sha256(PICTURE).hexdigest()
        upload = Upload(f"{self.number}.png", BytesIO(PICTURE), ImageType.PNG, len(PICTURE), digest)
        return stored_source(services, CALLER, upload, once)


class Clients:
    """All clients, with what they were told.

    Args:
        site: Where they are.
        api: Returns the API's process; None while there is none.
    """

    def __init__(self, site: Site, api: Callable[[], ApiProcess | None]) -> None:
        self._site = site
        self.world: World = site.world
        self.checks = site.checks
        self._api = api
        self._process = Process(site.world, "clients")
        self.accepted: dict[JobId, int] = {}  #: order numbers of the jobs that an answer named
        self.unanswered: set[int] = set()  #: orders that nobody retried though their answer was lost
        self.orders: dict[int, Order] = {}
        self.open = 0  #: clients that are not done

    def come(self, orders: int, *, poison: bool) -> None:
        for number in range(orders):
            order = self._any_order(number, poison=poison)
            self.orders[number] = order
            self.begin(f"client {number}", partial(self._visit, order))

    def begin(self, name: str, visit: Callable[[], None]) -> None:
        """Let one more client do something."""

        def come() -> None:
            visit()
            self.open -= 1

        self.open += 1
        self._process.spawn(name, come)

    def _any_order(self, number: int, *, poison: bool) -> Order:
        chosen = self.world.random
        kind = chosen.choices([*Kind], weights=(20, poison, 1, 2))[0]
        parameters = {
            "num_outputs": chosen.choice((1, 1, 2)),
            "num_inference_steps": chosen.choice((1, 3, 8)),
            "seed": SEEDS[kind],
            "output_format": "png",
            "megapixels": "0.25",
        }
        echo = Echo(type="IMAGE_VARIATOR", model="m", prompt_object="{}", request_id=str(number))
        limit = timedelta(seconds=chosen.uniform(0.5, 5)) if kind is Kind.HURRIED else None
        queue, ran = chosen.choice(((limit, None), (None, limit)))
        webhook = Webhook(url="https://receiver.example", events=(*WebhookEvent,)) if chosen.random() < 0.2 else None
        low = chosen.random() < 0.2
        draft = Draft(parameters, echo, low_priority=low, max_queue=queue, max_run=ran, webhook=webhook)
        how = chosen.choice(("keyed", "keyed", "keyed", "retried", "once"))
        return Order(number, kind, how, chosen.random() < 0.4, draft)

    def _visit(self, order: Order) -> None:
        chosen = self.world.random
        self.world.wait(chosen.uniform(0, 6))
        job_id = self._order(order)
        later = chosen.random()
        if job_id and later < 0.35:
            self.world.wait(chosen.choice((0.0, 0.1, 1.0, 5.0, 20.0)))
            if later < 0.25:
                self._give_up(job_id)
            else:
                self._try_again(job_id)

    def _order(self, order: Order) -> JobId | None:
        """Send an order until it stands or is refused."""
        again = False
        while True:
            answer = self.ask(f"order {order.number}", partial(_submit, order, again))
            if answer.error is None:
                job_id: JobId = answer.result.job_id
                self.accepted[job_id] = order.number
                self.world.note(f"accepted {job_id}")
                return job_id
            again = True
            if not isinstance(answer.error, Unavailable | TooManyRequests):
                self.checks.require(
                    isinstance(answer.error, InvalidRequest) and order.uploads, f"refused: {answer.error!r}"
                )
                return None
            if order.how == "once":
                self.unanswered.add(order.number)
                return None

    def _give_up(self, job_id: JobId) -> None:
        """Have a job canceled, with or without its traces deleted."""
        self.checks.deleting.add(job_id)
        route = self.world.random.choice((_cancel, _delete))
        while (error := self.ask("give up", partial(route, job_id)).error) and isinstance(error, Unavailable):
            pass
        self.checks.require(error is None, f"cannot be given up: {error!r}")

    def _try_again(self, job_id: JobId) -> None:
        """Have an operator put the job back into the queue, if it has failed."""
        if self.checks.records[job_id]["status"] == "failed":
            self.checks.retried.add(job_id)
            self.ask("try again", partial(_retry, job_id))

    def ask(self, name: str, route: Route) -> Call:
        """Send a request and wait for its answer, as long as a client does."""
        api, chosen = self._api(), self.world.random
        if api is None:
            self.world.wait(1)
            call = Call()
            call.end(error=Unavailable("refused"))
            return call
        call = api.request(name, route)
        self.world.wait(chosen.choice(PATIENCE), call.over)
        seen = Call()
        if not call.over.is_set() or chosen.random() < self._site.network.weather.records:
            seen.end(error=Unavailable("no answer"))
        else:
            seen.end(call.result, call.error)
        if seen.error:
            self.world.wait(chosen.choice((0.0, 0.1, 2.0)))
        return seen


async def _submit(order: Order, again: bool, services: Services) -> Any:  # noqa: FBT001  bound by a partial
    once = order.once(again=again)
    return await submit(services, CALLER, order.draft, order.source(services, once), once=once)


async def _cancel(job_id: JobId, services: Services) -> None:
    await report(services, CALLER, job_id)
    cancel = partial(transitions.cancel, now=services.clock.now())
    await services.run(services.jobs.update(job_id, cancel))


async def _retry(job_id: JobId, services: Services) -> None:
    retry = partial(transitions.retry, now=services.clock.now())
    await services.run(services.jobs.update(job_id, retry))


async def _delete(job_id: JobId, services: Services) -> None:
    await delete_result(services, CALLER, job_id)
