import gzip
import re
import socket
import threading
import time
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from pydantic import SecretStr

from shared.egress import Egress
from shared.errors import EgressFailed, EgressRefused, EgressUnavailable
from shared.settings import EgressSettings
from tests.servers import free_port
from tests.tls_servers import NAME, Handler, Names, Pictures, endlessly, listening, reply

LOOPBACK: dict[str, Any] = {"allowed_networks": (ip_network("127.0.0.0/8"),)}
PUBLIC = "93.184.215.14"
NO_PUBLIC_ADDRESS = "the URL's host has no public address"
NO_ANSWER = "The URL's server does not answer over https"
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was connected to; nothing is reached."""
    tried: list[Any] = []

    def refuse(address: Any, *_: Any, **__: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    return tried


def egress(seconds: float = 10, **settings: Any) -> Egress:
    return Egress(EgressSettings(timeout_seconds=timedelta(seconds=seconds), **settings))


def test_a_url_gives_its_bytes(pictures: Pictures) -> None:
    url = pictures.serve(reply(b"a picture"))
    assert egress(**LOOPBACK).fetch(url, max_bytes=9) == b"a picture"


def test_the_server_is_called_by_its_name_and_at_the_address_that_was_checked(pictures: Pictures, names: Names) -> None:
    url = pictures.serve(reply(b"x"))
    names.answers.append(["10.0.0.1"])
    egress(**LOOPBACK).fetch(url, max_bytes=9)
    assert names.asked.count(NAME) == 1
    assert pictures.called == [NAME]
    assert pictures.requests[0].startswith(b"GET /a%20b.png?c=d HTTP/1.1\r\n")
    assert f"\r\nHost: {url.split('/')[2]}\r\n".encode() in pictures.requests[0]


def test_each_call_checks_the_address_anew(pictures: Pictures, names: Names) -> None:
    url = pictures.serve(reply(b"x"))
    names.answers.append(["10.0.0.1"])
    way_out = egress(**LOOPBACK)
    way_out.fetch(url, max_bytes=9)
    with pytest.raises(EgressRefused):
        way_out.fetch(url, max_bytes=9)
    assert len(pictures.requests) == 1


def test_another_address_is_tried_when_the_first_does_not_answer(pictures: Pictures, names: Names) -> None:
    url = pictures.serve(reply(b"x"))
    names.answers[:] = [["127.0.0.2", "127.0.0.1"]]
    assert egress(**LOOPBACK).fetch(url, max_bytes=9) == b"x"


def test_an_address_that_swallows_connections_leaves_time_for_the_next(pictures: Pictures, names: Names) -> None:
    url = pictures.serve(reply(b"x"))
    names.answers[:] = [["127.0.0.2", "127.0.0.1"]]
    swallows = ("127.0.0.2", int(url.split(":")[2].partition("/")[0]))
    with (
        socket.create_server(swallows, backlog=0),
        socket.create_connection(swallows),
    ):  # one waits, more is no room for
        assert egress(2, **LOOPBACK).fetch(url, max_bytes=9) == b"x"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply(b"", "Location: https://elsewhere.test/", status="302 Found"), "redirects are not followed"),
        (reply(b"nothing here", status="404 Not Found"), "the URL's server answered 404"),
        (reply(b"part", status="206 Partial Content"), "the URL's server answered 206"),
        (reply(b"x" * 1001), "more than 1000 bytes"),
        (endlessly(HEAD + b"\r\n", b"x" * 65536), "more than 1000 bytes"),
        (endlessly(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), "more than 1000 bytes"),
        (reply(gzip.compress(bytes(10_000_000)), "Content-Encoding: gzip"), "compresses"),
        (endlessly(HEAD + b"X: ", b"x" * 65536), NO_ANSWER),
        (lambda connection: connection.sendall(HEAD + b"Content-Length: 9\r\n\r\nhalf"), NO_ANSWER),
        (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"), NO_ANSWER),
    ],
)
def test_a_server_that_does_not_deliver_is_named(answer: Handler, message: str, pictures: Pictures) -> None:
    url = pictures.serve(answer)
    with pytest.raises(EgressFailed, match=message):
        egress(**LOOPBACK).fetch(url, max_bytes=1000)
    assert len(pictures.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        endlessly(b"", b"H", 0.05),
        endlessly(HEAD, b"X: x\r\n", 0.05),
        endlessly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        endlessly(HEAD + b"\r\n", b"x", 0.05),
        endlessly(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x", 0.05),
        lambda connection: connection.recv(1),
    ],
    ids=["status", "headers", "interim", "body", "chunk", "silence"],
)
def test_a_slow_server_is_left_at_the_deadline(answer: Handler, pictures: Pictures) -> None:
    url, started = pictures.serve(answer), time.monotonic()
    with pytest.raises(EgressFailed, match="took too long"):
        egress(0.5, **LOOPBACK).fetch(url, max_bytes=1_000_000)
    assert 0.4 < time.monotonic() - started < 2


def test_a_server_that_does_not_shake_hands_is_left_at_the_deadline(pictures: Pictures, names: Names) -> None:
    names.answers.append(["127.0.0.1"])
    hello = endlessly(b"\x16\x03\x03\x40\x00", b"\x00", 0.05)
    with listening(hello) as port, pytest.raises(EgressFailed, match="took too long"):
        egress(0.5, **LOOPBACK).fetch(f"https://{NAME}:{port}/", max_bytes=9)


def test_a_slow_resolver_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, started = threading.Event(), time.monotonic()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(10))
    with pytest.raises(EgressFailed, match=NO_PUBLIC_ADDRESS):
        egress(0.3).fetch(f"https://{NAME}/", max_bytes=9)
    answered.set()
    assert time.monotonic() - started < 2


def test_a_certificate_for_another_name_is_not_accepted(pictures: Pictures) -> None:
    url = pictures.serve(reply(b"x"), certified="elsewhere.test")
    with pytest.raises(EgressFailed, match="certificate of the URL's server is not valid: Hostname mismatch"):
        egress(**LOOPBACK).fetch(url, max_bytes=9)
    assert not pictures.requests


def test_a_certificate_of_an_unknown_authority_is_not_accepted(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = pictures.serve(reply(b"x"))
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(EgressFailed, match="certificate of the URL's server is not valid"):
        egress(**LOOPBACK).fetch(url, max_bytes=9)


@pytest.mark.parametrize(
    "url",
    [
        "http://pictures.test/a.png",
        "ftp://pictures.test/a.png",
        "file:///etc/passwd",
        "//pictures.test/a.png",
        "https:///a.png",
        "https:a.png",
        "a.png",
        "",
        "https://user:password@pictures.test/a.png",
        "https://user@pictures.test/a.png",
        "https://elsewhere.test\\@pictures.test/a.png",
        "https://pictures.test:80/a.png",
        "https://pictures.test:22/a.png",
        "https://pictures.test:65979/a.png",
        "https://pictures.test:0/a.png",
        "https://pictures.test:x/a.png",
        "https://.pictures.test/",
        "https://pictures..test/",
        f"https://{'a' * 64}.test/",
        "https://pictures.test\r\nX: y/",
        "https://pictures\0.test/",
        "https://\ud800.test/",
        "https://[::1/",
        "https://xn--a/",
        "https://xn--ls8h.la/",
    ],
)
@pytest.mark.parametrize("settings", [{}, {"proxy": SecretStr("http://127.0.0.1:9")}], ids=["direct", "proxied"])
def test_a_url_that_is_not_plain_https_is_refused(
    url: str, settings: dict[str, Any], names: Names, connected: list[Any]
) -> None:
    names.answers.append([PUBLIC])
    with pytest.raises(EgressRefused):
        egress(**settings).fetch(url, max_bytes=9)
    assert not connected


INSIDE = """
    127.0.0.1 127.8.8.8 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 0.0.0.0 0.1.2.3
    224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 192.0.0.192 192.0.2.1 198.18.0.1 203.0.113.1
    ::1 :: ::ffff:127.0.0.1 ::ffff:a9fe:a9fe ::7f00:1 ::ffff:0:127.0.0.1 fe80::1 fc00::1 fd00:ec2::254 fec0::1 ff02::1
    ff0e::1 2001:db8::1 3fff::1 100::1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::a00:1 2002:7f00:1:: 2002:808:808::
    2001:0:7f00:1::1 2001:0:808:808::f5ff:fffe
""".split()  # noqa: SIM905  a table


@pytest.mark.parametrize("address", INSIDE)
@pytest.mark.parametrize("before", [[], [PUBLIC]], ids=["alone", "second"])
def test_a_name_that_leads_inside_is_refused(
    address: str, before: list[str], names: Names, connected: list[Any]
) -> None:
    names.answers.append([*before, address])
    with pytest.raises(EgressRefused, match=f"^{NO_PUBLIC_ADDRESS}$"):
        egress().fetch(f"https://{NAME}/", max_bytes=9)
    assert not connected


@pytest.mark.parametrize(
    "host",
    [
        *(f"[{address}]" if ":" in address else address for address in INSIDE),
        *("localhost", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "0", "0xa9fea9fe", "2852039166"),
    ],
)
def test_an_address_inside_is_refused_however_it_is_written(host: str, connected: list[Any]) -> None:
    with pytest.raises(EgressRefused, match=f"^{NO_PUBLIC_ADDRESS}$"):
        egress().fetch(f"https://{host}/", max_bytes=9)
    assert not connected


@pytest.mark.parametrize("host", ["0177.0.0.1", "127.0.0.1.", "①②⑦.⓪.⓪.①", "[fe80::1%25lo]", "127。0。0。1"])
def test_an_address_in_no_usual_form_is_not_reached(host: str, connected: list[Any]) -> None:
    with pytest.raises((EgressRefused, EgressFailed)):
        egress().fetch(f"https://{host}/", max_bytes=9)
    assert not connected


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_a_name_that_changes_its_mind_is_called_where_it_was_first(
    address: str, names: Names, connected: list[Any]
) -> None:
    names.answers[:] = [[address], ["127.0.0.1"], ["127.0.0.1"]]
    with pytest.raises(EgressFailed):
        egress().fetch(f"https://{NAME}/", max_bytes=9)
    assert (connected, names.asked) == ([(address, 443)], [NAME])


def test_allowed_networks_open_nothing_else(names: Names, connected: list[Any]) -> None:
    names.answers.append(["127.0.0.1", "10.0.0.1"])
    with pytest.raises(EgressRefused, match="port must be 443"):
        egress(**LOOPBACK).fetch(f"https://{NAME}:8443/", max_bytes=9)
    assert not connected


def test_a_name_that_does_not_exist_is_told(connected: list[Any]) -> None:
    with pytest.raises(EgressFailed, match=NO_PUBLIC_ADDRESS):
        egress().fetch("https://nowhere.invalid/", max_bytes=9)


def test_the_environments_proxy_is_not_asked(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    assert egress(**LOOPBACK).fetch(pictures.serve(reply(b"x")), max_bytes=9) == b"x"


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "302 Found", "410 Gone", "500 Internal Server Error"])
def test_a_webhook_gets_body_and_headers_and_tells_its_status(status: str, pictures: Pictures) -> None:
    url = pictures.serve(reply(b"", "Location: https://elsewhere.test/", status=status))
    told = egress(**LOOPBACK).post(url, b"x" * 100_000, {"Content-Type": "application/json", "webhook-id": "msg_1"})
    assert told == int(status[:3])
    (request,) = pictures.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a%20b.png?c=d HTTP/1.1\r\n")
    assert {b"Content-Type: application/json", b"webhook-id: msg_1", b"Content-Length: 100000"} < {*head.split(b"\r\n")}
    assert body == b"x" * 100_000


def test_a_webhook_that_leads_inside_is_not_called(names: Names, connected: list[Any]) -> None:
    names.answers.append(["169.254.169.254"])
    with pytest.raises(EgressRefused, match=NO_PUBLIC_ADDRESS):
        egress().post(f"https://{NAME}/", b"x", {})
    assert not connected


@pytest.mark.parametrize("answer", [endlessly(HEAD + b"\r\n", b"x" * 65536), endlessly(HEAD + b"\r\n", b"x", 0.05)])
def test_what_a_webhook_answers_is_not_waited_for(answer: Handler, pictures: Pictures) -> None:
    assert egress(2, **LOOPBACK).post(pictures.serve(answer), b"x", {}) == 200


def test_a_webhook_that_does_not_answer_is_left_at_the_deadline(pictures: Pictures) -> None:
    url = pictures.serve(endlessly(b"", b"H", 0.05))
    with pytest.raises(EgressFailed, match="took too long"):
        egress(0.5, **LOOPBACK).post(url, b"x", {})


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        (f"https://{NAME}/", {"webhooks": False}, "webhooks are not allowed here"),
        (f"http://{NAME}/", {}, "must start with https://"),
        (f"https://user@{NAME}/", {}, "must not contain a user name"),
        (f"https://{NAME}:8443/", {}, "port must be 443"),
        (f"https://{NAME}:8443/", LOOPBACK | {"proxy": SecretStr("http://127.0.0.1:9")}, "port must be 443"),
    ],
)
def test_a_webhook_that_will_never_be_called_is_refused_before_its_name_is_looked_up(
    url: str, settings: dict[str, Any], message: str, names: Names
) -> None:
    way_out = egress(**settings)
    with pytest.raises(EgressRefused, match=message):
        way_out.check_webhook(url)
    with pytest.raises(EgressRefused, match=message):
        way_out.post(url, b"x", {})
    assert not names.asked


def test_a_webhook_that_may_be_called_is_not_looked_up_before(names: Names) -> None:
    egress().check_webhook(f"https://{NAME}/jobs?token=1")
    egress(**LOOPBACK).check_webhook(f"https://{NAME}:8443/")
    assert not names.asked


def connect_proxy(asked: list[bytes], answer: bytes, onward: Handler = lambda _: None) -> Handler:
    def handle(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(answer)
        onward(connection)

    return handle


def test_the_proxy_gets_the_name_unresolved(pictures: Pictures, names: Names) -> None:
    asked: list[bytes] = []
    tunnel = connect_proxy(asked, b"HTTP/1.1 200 OK\r\n\r\n", pictures.handler(reply(b"x")))
    with listening(tunnel) as port:
        proxied = egress(proxy=SecretStr(f"http://us:hush@127.0.0.1:{port}"))
        assert proxied.fetch(f"https://{NAME}/", max_bytes=9) == b"x"
    assert asked[0].startswith(f"CONNECT {NAME}:443 HTTP/1.1\r\n".encode())
    assert b"\r\nProxy-Authorization: Basic " in asked[0]
    assert pictures.called == [NAME]
    assert names.asked == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"HTTP/1.1 407 Request rejected by proxy\r\n\r\n", EgressRefused, "the egress proxy refuses the URL's host"),
        (b"HTTP/1.1 403 10.0.0.1 is inside\r\n\r\n", EgressRefused, "the egress proxy refuses the URL's host"),
        (b"HTTP/1.1 502 Bad gateway\r\n\r\n", EgressFailed, NO_ANSWER),
    ],
)
def test_what_the_proxy_refuses_is_our_error(answer: bytes, error: type[Exception], message: str) -> None:
    with listening(connect_proxy([], answer)) as port, pytest.raises(error, match=re.escape(message)) as caught:
        egress(proxy=SecretStr(f"http://127.0.0.1:{port}")).fetch(f"https://{NAME}/", max_bytes=9)
    assert "10.0.0.1" not in str(caught.value)


def test_a_proxy_that_is_down_is_not_the_callers_fault() -> None:
    with pytest.raises(EgressUnavailable):
        egress(proxy=SecretStr(f"http://127.0.0.1:{free_port()}")).fetch(f"https://{NAME}/", max_bytes=9)
