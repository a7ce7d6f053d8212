"""Whether the doctor finds a healthy deployment healthy, and names each fault with what mends it."""

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import pytest
import redis
import trustme
from pydantic import SecretStr
from typer.testing import CliRunner

from reduxq.operating.doctor import examine
from reduxq.operating.findings import Level, Site
from reduxq.operating.main import app
from reduxq.operating.server_checks import CHECKS, SKEWED
from shared.clock import Clock
from shared.connections import run
from shared.errors import Misconfigured
from shared.object_store import ObjectStore
from shared.presence import WorkerLife, announce_worker, lead
from shared.settings import BrokerSettings, RecordsSettings, Settings, StorageSettings
from tests.servers import free_port
from tests.stack import Stack
from tests.tls_servers import listening

MINUTE = timedelta(minutes=1)
NOBODY = f"http://127.0.0.1:{free_port()}"  #: where no server listens


class SkewedClock(Clock):
    """A clock that is behind by this."""

    def __init__(self, behind: timedelta) -> None:
        self.behind = behind

    def now(self) -> datetime:
        return super().now() - self.behind


def look(
    name: str, settings: Settings, *, api_url: str | None = None, clock: Clock | None = None
) -> list[tuple[Level, str]]:
    """Return what a check finds, with what mends it."""
    site = Site(settings, api_url, clock or Clock())
    found = [finding for _, finding in examine(site, [check for check in CHECKS if check.name == name], 60)]
    return [(finding.level, f"{finding.found} -> {finding.mend}") for finding in found]


def faults(*arguments: Any, **chosen: Any) -> list[str]:
    """Return what is not well."""
    return [f"{level}: {text}" for level, text in look(*arguments, **chosen) if level is not Level.OK]


@pytest.fixture
def on_valkey(valkey: str) -> Settings:
    url = SecretStr(valkey)
    return Settings(records=RecordsSettings(url=url), broker=BrokerSettings(url=url))


@pytest.fixture
def on_s3(storage: StorageSettings, objects: ObjectStore) -> StorageSettings:
    return storage


def test_a_healthy_stack_is_found_healthy_and_no_secret_is_told(stack: Stack) -> None:
    command = [sys.executable, "-m", "reduxq", "doctor", "--json", "--data", str(stack.folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["level"] for one in told} == {"ok"}, told
    assert {one["check"] for one in told} == {"settings", *(check.name for check in CHECKS), "model"}
    kept = json.loads((stack.folder / "secrets.json").read_text())
    secrets = [value for name, value in kept.items() if name not in {"ports", "flower_user"}]
    assert not [secret for secret in [*secrets, "X-Amz-Signature"] if secret in done.stdout + done.stderr]


@pytest.mark.parametrize(
    ("name", "value"),
    [("appendonly", "no"), ("appendfsync", "everysec"), ("maxmemory-policy", "allkeys-lru")],
)
def test_a_records_server_that_can_forget_is_named_with_its_setting(
    on_valkey: Settings, records: redis.Redis, name: str, value: str
) -> None:
    assert not faults("records", on_valkey)
    needed = records.config_get(name)[name]
    records.config_set(name, value)
    (fault,) = faults("records", on_valkey)
    assert fault.startswith(f"broken: {name} {value} -> 'CONFIG SET {name} {needed}' there")


def test_managed_records_are_their_operators_business(on_valkey: Settings, records: redis.Redis) -> None:
    records.config_set("appendfsync", "everysec")
    managed = on_valkey.records.model_copy(update={"durability": "managed"})
    (note,) = faults("records", on_valkey.model_copy(update={"records": managed}))
    assert note.startswith("note: REDUXQ_RECORDS__DURABILITY=managed")


def test_a_full_records_server_is_told_before_it_refuses(on_valkey: Settings, records: redis.Redis) -> None:
    used = records.info("memory")["used_memory"]
    records.config_set("maxmemory", used * 10 // 9)
    (fault,) = faults("records", on_valkey)
    assert fault.startswith("warning: ")
    assert "of memory in use -> give it more" in fault


def test_a_broker_that_drops_messages_is_named(on_valkey: Settings, records: redis.Redis) -> None:
    records.lpush("gpu", "message")
    records.config_set("maxmemory-policy", "volatile-lru")
    _, (level, text), waiting = look("broker", on_valkey)
    assert (level, text.split(" -> ")[0]) == (Level.BROKEN, "maxmemory-policy volatile-lru")
    assert waiting == (Level.OK, "1 messages wait for workers -> ")


def test_who_is_missing_at_work_is_named(on_valkey: Settings, records: redis.Redis) -> None:
    assert [level for level, _ in look("work", on_valkey)] == [Level.BROKEN, Level.OK, Level.WARNING]
    run(records, lead("one", MINUTE))
    run(records, announce_worker("one", WorkerLife(2, 0.0, gpu="GPU-7"), MINUTE))
    run(records, announce_worker("three", WorkerLife(2, 0.0), MINUTE))
    run(records, announce_worker("four", WorkerLife(2, 0.0), MINUTE))
    assert not faults("work", on_valkey)
    run(records, announce_worker("two", WorkerLife(2, 0.0, gpu="GPU-7"), MINUTE))
    (fault,) = faults("work", on_valkey)
    assert fault.startswith("warning: GPU-7 belongs to one and two -> give each a GPU of its own")


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"endpoint": NOBODY}, "does not answer: Could not connect"),
        ({"bucket": "missing"}, "NoSuchBucket"),
        ({"secret_key": SecretStr("wrong")}, "SignatureDoesNotMatch"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named(on_s3: StorageSettings, chosen: dict[str, Any], found: str) -> None:
    (fault,) = faults("storage", Settings(storage=on_s3.model_copy(update=chosen)))
    assert fault.startswith("broken: the object storage")
    assert found in fault
    assert fault.endswith("-> see that it runs, has the bucket and knows the keys that REDUXQ_STORAGE__* name")


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(BaseHTTPRequestHandler):
    """Answers without a line in the log."""

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_: Any) -> None:
        """Keep silent."""


class Trusting(Quiet):
    """A storage that looks at no signature."""

    objects: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self) -> None:
        self.objects[self.path.partition("?")[0]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200)

    def do_GET(self) -> None:
        self.answer(200, self.objects[self.path.partition("?")[0]])

    def do_DELETE(self) -> None:
        del self.objects[self.path.partition("?")[0]]
        self.answer(204)


def test_a_storage_that_looks_at_no_signature_is_named(on_s3: StorageSettings) -> None:
    with serving(Trusting) as endpoint:
        told = faults("links", Settings(storage=on_s3.model_copy(update={"endpoint": endpoint})))
    assert [fault.split(" -> ")[0] for fault in told] == [
        "broken: with no signature it answers 200",
        "broken: with a forged signature it answers 200",
        "broken: past its end it answers 200",
    ]
    assert "make the bucket private" in told[0]
    assert "X-Amz-Expires" in told[2]
    assert not Trusting.objects


class Noting(Trusting):
    """A storage that remembers what it was given."""

    given: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self.given.append(self.path)
        super().do_PUT()


def test_checks_that_run_side_by_side_share_no_folder_that_one_could_take_from_the_other(
    on_s3: StorageSettings,
) -> None:
    with serving(Noting) as endpoint:
        assert not faults("storage", Settings(storage=on_s3.model_copy(update={"endpoint": endpoint})))
    (path,) = Noting.given
    assert path.startswith("/tests/doctor-")
    assert path.count("/") == 2


class Late(Trusting):
    """A storage whose clock is behind by as much as is allowed."""

    def do_GET(self) -> None:
        asked = dict(parse_qsl(urlsplit(self.path).query))
        signed_at = datetime.strptime(asked.get("X-Amz-Date", "19700101T000000Z"), "%Y%m%dT%H%M%S%z")
        ends_at = signed_at + timedelta(seconds=int(asked.get("X-Amz-Expires", 0)) + SKEWED)
        if datetime.now(UTC) > ends_at:
            self.answer(403)
        else:
            super().do_GET()


def test_a_clock_that_is_a_little_behind_breaks_no_link(on_s3: StorageSettings) -> None:
    with serving(Late) as endpoint:
        told = look("links", Settings(storage=on_s3.model_copy(update={"endpoint": endpoint})))
    assert told[-1] == (Level.OK, "past its end it answers 403 -> ")


class Down(Trusting):
    """A storage that takes objects and gives none back."""

    def do_GET(self) -> None:
        self.answer(503)


def test_a_storage_that_serves_no_link_is_not_said_to_show_pictures_to_anybody(on_s3: StorageSettings) -> None:
    with serving(Down) as endpoint:
        (fault,) = faults("links", Settings(storage=on_s3.model_copy(update={"endpoint": endpoint})))
    assert "answers 503 -> if the storage itself is well" in fault


class Careless(Quiet):
    """An API that is not ready and shows the public its metrics."""

    def do_GET(self) -> None:
        ready = self.path != "/readyz"
        self.answer(200 if ready else 503, b"" if ready else b'{"records":false}')


def test_an_api_is_told_what_its_clients_will_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=5, hours=1)).configure_cert(tls)
    with serving(Careless, tls) as url:
        told = look("api", Settings(), api_url=url)
    assert [level for level, _ in told] == ["ok", "ok", "warning", "broken", "broken"]
    assert told[2][1] == "its certificate is good for 5 days -> renew it"
    assert told[3][1].startswith('/readyz answers 503 {"records":false} -> what is false there')
    assert told[4][1].startswith("/metrics answers 200 -> let its proxy")


def test_a_certificate_that_nobody_trusts_is_named(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    with serving(Careless, tls) as url:
        (fault,) = faults("api", Settings(), api_url=url)
    assert "certificate verify failed" in fault


def test_a_public_endpoint_that_cannot_be_reached_from_here_is_a_note_and_signatures_are_tried_inside(
    on_s3: StorageSettings,
) -> None:
    (level, text), *told = look("links", Settings(storage=on_s3.model_copy(update={"public_endpoint": NOBODY})))
    assert level is Level.NOTE
    assert text.startswith(f"links lead to {NOBODY}/tests/, which does not answer")
    assert f"-> run the doctor where clients are, with REDUXQ_STORAGE__ENDPOINT={NOBODY}" in text
    assert {level for level, _ in told} == {Level.OK}
    assert f"a link to {on_s3.endpoint}/tests/ answers 200 -> " in [text for _, text in told]
    assert told[-1][1].startswith("past its end it answers 4")


def test_a_public_endpoint_whose_certificate_nobody_trusts_is_broken(on_s3: StorageSettings) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    with serving(Careless, tls) as url:
        (fault,) = faults("links", Settings(storage=on_s3.model_copy(update={"public_endpoint": url})))
    assert fault.startswith(f"broken: links lead to {url}/tests/, which does not answer")
    assert "certificate verify failed" in fault
    assert fault.endswith(
        "-> if the storage itself is well, set REDUXQ_STORAGE__PUBLIC_ENDPOINT to where clients reach it"
    )


@pytest.mark.parametrize(("seconds", "level"), [(-20, "warning"), (20, "warning"), (90, "broken")])
def test_clocks_that_differ_are_named(
    on_valkey: Settings, records: redis.Redis, storage: StorageSettings, seconds: int, level: str
) -> None:
    clock = SkewedClock(timedelta(seconds=seconds))
    with serving(Careless) as url:
        told = [*faults("records", on_valkey, clock=clock), faults("api", Settings(), api_url=url, clock=clock)[0]]
    assert [fault.split()[0] for fault in told] == [f"{level}:"] * 2
    assert all("from this machine's -> keep both by NTP" in fault for fault in told)


def test_servers_that_say_nothing_keep_nobody_waiting(on_s3: StorageSettings) -> None:
    leave = Event()
    with listening(lambda connection: leave.wait()) as port:
        url = SecretStr(f"redis://127.0.0.1:{port}")
        storage = on_s3.model_copy(update={"endpoint": f"http://127.0.0.1:{port}"})
        silent = Settings(records=RecordsSettings(url=url), broker=BrokerSettings(url=url), storage=storage)
        told = list(examine(Site(silent, f"http://127.0.0.1:{port}", Clock()), CHECKS, 0.5))
        leave.set()
    assert [(name, finding.level, finding.found) for name, finding in told] == [
        (check.name, Level.BROKEN, "no answer within 0.5 s") for check in CHECKS
    ]
    assert all(finding.mend for _, finding in told)


def test_what_is_wrong_is_printed_with_what_mends_it_and_ends_with_code_1(
    on_valkey: Settings, valkey: str, records: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RECORDS__URL", "BROKER__URL"):
        monkeypatch.setenv(f"REDUXQ_{name}", valkey)
    for name, value in {"ENDPOINT": NOBODY, "ACCESS_KEY": "x", "SECRET_KEY": "x"}.items():
        monkeypatch.setenv(f"REDUXQ_STORAGE__{name}", value)
    records.config_set("appendfsync", "everysec")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1, done.output
    lines = done.stdout.splitlines()
    place = lines.index("broken   records         appendfsync everysec")
    assert lines[place + 1].strip().startswith("-> 'CONFIG SET appendfsync always' there")
    assert "broken, " in lines[-1]


def test_a_mistyped_setting_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDUXQ_MODLE__BASE", "x")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert done.stdout.startswith("broken   settings        unknown setting REDUXQ_MODLE__BASE")


def test_what_scripts_read_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDUXQ_:key:", "x")
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert "unknown setting REDUXQ_:key:" in told["found"]


def test_a_stack_of_an_earlier_release_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps({"api_url": NOBODY}))
    done = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path)])
    assert isinstance(done.exception, Misconfigured)
    assert "earlier release; start it again" in done.exception.message
