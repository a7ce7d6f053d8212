"""The checks of the servers that a deployment is made of, as far as they show from outside."""

import ssl
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any, Final
from uuid import uuid4

import httpx
import redis
from pydantic import SecretStr

from reduxq.operating.findings import Check, Finding, Level, Site, judge
from shared.connections import connect, run
from shared.dispatch_store import figures
from shared.errors import StorageUnavailable
from shared.ids import AssetKey
from shared.object_store import ObjectStore
from shared.presence import living_workers
from shared.queue import QUEUES

OLDEST: Final = (7, 2)  #: Redis version with WAITAOF; Valkey tells the one that it is compatible with
CONFIGURED: Final = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
WRITTEN: Final = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
TIMEOUT: Final = 3.0  #: seconds for one question
FULL: Final = 0.8  #: of the memory, from where on it is time to act
SKEWED: Final = 5  #: seconds between two clocks from where on deadlines and links are off
USELESS: Final = 60  #: seconds from where on they do not work
BRIEF: Final = timedelta(seconds=1)  #: how long the link works whose end is tried
EXPIRED: Final = 2.6  #: seconds after which it must not; it was signed in whole seconds
LOOKS: Final = 3  #: so often, for a storage whose clock is behind by up to SKEWED seconds
CERTIFIED: Final = 14  #: days that a certificate should be good for; most are renewed 30 days before they end


def records(site: Site) -> Iterator[Finding]:
    """Look at whether the records server forgets nothing."""
    with _server(site.settings.records.url) as server:
        told: Any = server.info()
        yield from _kept(server, told)
        if told["loading"]:
            yield Finding(Level.BROKEN, "it is loading its data", "wait: it serves when it has, and nothing is lost")
            return
        seconds, microseconds = server.time()
        yield _skew(site, seconds + microseconds / 1e6)
        if site.settings.records.durability == "managed":
            yield Finding(Level.NOTE, "REDUXQ_RECORDS__DURABILITY=managed: its operator vouches for it")
        else:
            yield from _file(server, told)
        limit = told["maxmemory"] or told["total_system_memory"]
        used = told["used_memory"] / limit
        found, mend = f"{used:.0%} of {limit / 2**30:.1f} GiB of memory in use", "give it more (maxmemory, the machine)"
        yield judge(used < FULL, found, mend, Level.WARNING)


def _file(server: "redis.Redis", told: Any) -> Iterator[Finding]:
    """Look at the append-only file, and whether a write of ours gets into it."""
    yield _configured("appendonly", "yes" if told["aof_enabled"] else "no")
    if not told["aof_enabled"]:
        return
    fsync: Any = server.config_get("appendfsync")
    yield _configured("appendfsync", fsync["appendfsync"])
    server.set("doctor", "", px=1000)
    synced = server.execute_command("WAITAOF", 1, 0, 1000)[0]  # type: ignore[no-untyped-call]
    bad = [f"{name} is {told[name]}" for name in WRITTEN if told[name] != "ok"] + ["no fsync within 1 s"] * (not synced)
    yield judge(not bad, ", ".join(bad) or "a write is on its disk", "look at its disk's free space, and at its log")


def broker(site: Site) -> Iterator[Finding]:
    """Look at whether messages arrive and stay."""
    with _server(site.settings.broker.url) as server:
        yield from _kept(server, server.info())
        waiting: Any = [server.llen(name) for name in QUEUES]
        yield Finding(Level.OK, f"{sum(waiting)} messages wait for workers")


def _server(url: SecretStr) -> "redis.Redis":
    return connect(url.get_secret_value(), timeout=timedelta(seconds=TIMEOUT))


def _kept(server: "redis.Redis", told: Any) -> Iterator[Finding]:
    """Look at what both servers must be."""
    place = server.connection_pool.connection_kwargs
    known = tuple(map(int, str(told["redis_version"]).split(".")[:2]))  # "7.2" was made a number
    kind = f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"
    yield judge(known >= OLDEST, f"{kind} at {place.get('host')}:{place.get('port')}", "upgrade it to 7.2 at least")
    yield _configured("maxmemory-policy", told["maxmemory_policy"])


def _configured(name: str, value: str) -> Finding:
    needed = f"{name} {CONFIGURED[name]}"
    mend = f"'CONFIG SET {needed}' there, and '{needed}' in its configuration file; until then it can lose jobs"
    return judge(value == CONFIGURED[name], f"{name} {value}", mend)


def _skew(site: Site, there: float) -> Finding:
    """Compare another's clock with this machine's, from which up to TIMEOUT have passed since."""
    skew = there - site.clock.now().timestamp()
    level = Level.BROKEN if abs(skew) > USELESS else Level.WARNING
    mend = "keep both by NTP (chrony, systemd-timesyncd); deadlines and links go by them"
    return judge(abs(skew) <= SKEWED, f"its clock is {skew:+.1f} s from this machine's", mend, level)


def _date(site: Site, answer: httpx.Response) -> Iterator[Finding]:
    """Compare the clock of a web server that tells it."""
    if date := answer.headers.get("Date"):
        yield _skew(site, parsedate_to_datetime(date).timestamp() + 0.5)  # the middle of the second that it names


def work(site: Site) -> Iterator[Finding]:
    """Look at who decides what runs, and who runs it."""
    with _server(site.settings.records.url) as server:
        told, lives = run(server, figures()), sorted(run(server, living_workers()).items())
    queued, aside = told.jobs["queued"], told.jobs["set_aside"]
    led = "a dispatcher leads" if told.led else "no dispatcher leads"
    waits = f"{queued} jobs wait{f', the oldest for {told.oldest:.0f} s' if queued else ''}; {told.jobs['running']} run"
    yield judge(told.led, f"{led}; {waits}", "look at the dispatchers' logs and start one: no job begins without")
    yield judge(not aside, f"{aside} records cannot be read", "search the dispatcher's log for them", Level.WARNING)
    named = ", ".join(f"{name} ({life.slots} slots)" for name, life in lives) or "none"
    mend = "look at the workers' logs and start one, unless autoscaling does; it counts once its model is loaded"
    yield judge(lives, f"living workers: {named}", mend, Level.BROKEN if queued else Level.WARNING)
    sharing = defaultdict[str, list[str]](list)
    for name, life in lives:
        sharing[life.gpu].append(name)
    mend = "give each a GPU of its own (CUDA_VISIBLE_DEVICES); slices (MIG) are such"
    for gpu in filter(None, sharing):
        yield judge(len(sharing[gpu]) == 1, f"{gpu} belongs to {' and '.join(sharing[gpu])}", mend, Level.WARNING)


def storage(site: Site) -> Iterator[Finding]:
    """Look at whether objects come, stay and go."""
    with _probe(site) as (objects, key, body):
        found = f"bucket {objects.bucket!r} takes an object and gives it back"
        yield judge(objects.get(key) == body, found, "it gave back other bytes: use another storage")


def links(site: Site) -> Iterator[Finding]:
    """Look at whether links let in whom they should, and nobody else."""
    with _probe(site) as (objects, key, body), httpx.Client(timeout=TIMEOUT) as web:
        signer = objects
        try:
            answer = web.get(signer.sign(key))
        except httpx.TransportError as error:
            found = f"links lead to {objects.location(AssetKey(''))}, which does not answer: {error}"
            public = site.settings.storage.public_endpoint
            if not public or not _away(error):
                raise StorageUnavailable(found) from error
            yield Finding(Level.NOTE, found, PUBLIC_MEND.format(public))
            inside = site.settings.storage.model_copy(update={"public_endpoint": None})
            signer = ObjectStore(inside, tries=1)  # signatures are checked there as well
            answer = web.get(signer.sign(key))
        yield from _date(site, answer)
        fine = answer.is_success and answer.content == body
        yield judge(fine, f"a link to {signer.location(AssetKey(''))} answers {answer.status_code}", LINK_MEND)
        if not (answer.is_redirect or answer.is_server_error):  # which would say nothing of signatures
            yield from _refused(web, signer.sign(key), signer.sign(key, BRIEF))


def _away(error: httpx.TransportError) -> bool:
    """Say whether there is no way to the server from here; one whose certificate is no good can be reached."""
    cause = error.__cause__ and error.__cause__.__context__  # httpcore's, and the system's
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not isinstance(cause, ssl.SSLError)


def _refused(web: httpx.Client, link: str, brief: str) -> Iterator[Finding]:
    """Look at whether a link is refused that was not signed, not so or not for so long."""
    start, name, signature = link.partition("X-Amz-Signature=")
    mend = "anybody could read pictures: make the bucket private, or use a storage that checks signatures"
    for what, forged in {"no": link.partition("?")[0], "a forged": f"{start}{name}{signature[::-1]}"}.items():
        answer = web.get(forged)
        yield judge(answer.is_client_error, f"with {what} signature it answers {answer.status_code}", mend)
    for _ in range(LOOKS):
        Event().wait(EXPIRED)
        answer = web.get(brief)
        if answer.is_client_error:
            break
    mend = "links never end: compare the clocks; if they agree, use a storage that heeds X-Amz-Expires"
    yield judge(answer.is_client_error, f"past its end it answers {answer.status_code}", mend)


@contextmanager
def _probe(site: Site) -> Iterator[tuple[ObjectStore, AssetKey, bytes]]:
    """Have an object in the bucket for the time of the block."""
    objects = ObjectStore(site.settings.storage, tries=1)
    # In no folder: a storage of files removes one with its last object, under the hands of the other check.
    key, body = AssetKey(f"{site.settings.storage.prefix}doctor-{uuid4()}"), uuid4().bytes
    objects.put(key, body, "application/octet-stream")
    try:
        yield objects, key, body
    finally:
        objects.delete(key)


def api(site: Site) -> Iterator[Finding]:
    """Look at whether the API answers as its clients see it."""
    if site.api_url is None:
        yield Finding(Level.NOTE, "not looked at, for nobody named its address with --api")
        return
    with httpx.Client(base_url=site.api_url, timeout=TIMEOUT) as web:
        with web.stream("GET", "/healthz") as answer:
            yield judge(answer.is_success, f"{site.api_url}/healthz answers {answer.status_code}", API_MEND)
            yield from _date(site, answer)
            if tls := answer.extensions["network_stream"].get_extra_info("ssl_object"):
                days = (parsedate_to_datetime(tls.getpeercert()["notAfter"]) - site.clock.now()).days
                yield judge(days >= CERTIFIED, f"its certificate is good for {days} days", "renew it", Level.WARNING)
        ready, metrics = web.get("/readyz"), web.get("/metrics")
        mend = "what is false there the API does not reach: compare its settings with these, and look at its log"
        yield judge(ready.is_success, f"/readyz answers {ready.status_code} {ready.text[:200]}", mend)
        mend = "let its proxy pass on the API's port alone: metrics are no business of the public's"
        yield judge(not metrics.is_success, f"/metrics answers {metrics.status_code}", mend)


API_MEND: Final = "look at its log, and at the proxy and the certificate before it"
PUBLIC_MEND: Final = "run the doctor where clients are, with REDUXQ_STORAGE__ENDPOINT={}: to there it must be reached"
LINK_MEND: Final = "if the storage itself is well, set REDUXQ_STORAGE__PUBLIC_ENDPOINT to where clients reach it"
REDIS_MEND: Final = "start it, or mend REDUXQ_{}__URL; look at its log and at the network between"
CHECKS: Final = (
    Check("records", records, REDIS_MEND.format("RECORDS")),
    Check("broker", broker, REDIS_MEND.format("BROKER")),
    Check("work", work, "see what is said of the records server"),
    Check("storage", storage, "see that it runs, has the bucket and knows the keys that REDUXQ_STORAGE__* name"),
    Check("links", links, LINK_MEND),
    Check("api", api, API_MEND),
)
