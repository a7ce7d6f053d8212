"""docs/cookbook.md, run as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.clients.tls_proxy import tls_proxy
from tests.customer import Customer
from tests.servers import ROOT, free_port, listens, process, wait_until
from tests.stack import Stack, running_stack

SECTION = re.compile(r"^## (\d)\. .*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = (ROOT / "docs" / "cookbook.md").read_text()
RECIPES = {int(found[1]): [tuple(block) for block in BLOCK.findall(found[0])] for found in SECTION.finditer(TEXT)}


def command(language: str, code: str) -> list[str]:
    return (
        ["sh", "-euc", code] if language == "sh" else [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    )


def environment(customer: Customer, **more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**customer.environment, "PATH": path, "no_proxy": "127.0.0.1", **more}


def do(customer: Customer, language: str, code: str, **more: str) -> str:
    done = subprocess.run(
        command(language, code),
        cwd=customer.folder,
        env=environment(customer, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def customer(stack: Stack, tmp_path: Path) -> Customer:
    customer = Customer(stack, tmp_path)
    customer.photo("cat.png")
    return customer


def test_there_are_five_recipes() -> None:
    assert list(RECIPES) == [1, 2, 3, 4, 5]


def test_one_picture_with_curl(customer: Customer) -> None:
    ((language, code),) = RECIPES[1]
    do(customer, language, code)
    assert (customer.folder / "cat-1.webp").read_bytes()[8:12] == b"WEBP"


def test_progress_files_and_price_in_python(customer: Customer) -> None:
    ((language, code),) = RECIPES[2]
    told = do(customer, language, code)
    assert "running" in told
    assert re.search(r"variations/cat-2\.webp has seed \d+\n\d+ credits\n", told)


def test_a_folder_over_night(customer: Customer) -> None:
    customer.photo("photos/cat.png")
    begin, retry = RECIPES[3]
    do(customer, *begin)
    made = sorted(path.name for path in (customer.folder / "variations").glob("*.webp"))
    assert made == ["cat-1.webp", "cat-2.webp"]
    left = customer.credit()
    do(customer, *begin)
    do(customer, *retry)
    assert customer.credit() == left


@pytest.mark.slow
def test_be_told_instead_of_asking(tmp_path: Path) -> None:
    (_, receiver), (_, submit) = RECIPES[4]
    port, log = free_port(), tmp_path / "hooks.log"
    with tls_proxy(f"http://127.0.0.1:{port}", tmp_path) as proxy:
        trusting = {"REDUXQ_EGRESS__PROXY": proxy.url, "SSL_CERT_FILE": str(proxy.authority)}
        with running_stack(tmp_path / "stack", trusting) as stack:
            customer = Customer(stack, tmp_path)
            customer.photo("cat.png")
            hooks = environment(customer, WEBHOOK_SECRET=secret_of(customer), PORT=str(port))
            with process(command("python", receiver), log, hooks):
                wait_until(lambda: listens(port))
                assert httpx.post(f"http://127.0.0.1:{port}", content=b"{}", trust_env=False).status_code == 400
                uuid = do(customer, "python", submit, WEBHOOK_URL="https://hooks.example.org/reduxq").strip()
                wait_until(lambda: "job.finished" in log.read_text(), 60)
    assert f"msg_{uuid}" in log.read_text()
    assert proxy.hosts == ["hooks.example.org:443"]


def secret_of(customer: Customer) -> str:
    arguments = ("teams", "webhook-secret", customer.team, "--data", str(customer.stack.folder))
    shown = subprocess.run([sys.executable, "-m", "reduxq", *arguments], cwd=ROOT, check=True, capture_output=True)
    return shown.stdout.decode().strip()


def test_a_program_written_for_openais_image_variations(customer: Customer) -> None:
    ((language, code),) = RECIPES[5]
    do(customer, language, code)
    assert all((customer.folder / f"openai-{n}.jpg").read_bytes()[:2] == b"\xff\xd8" for n in (1, 2))
