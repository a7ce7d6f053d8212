"""The clients that people really have, beside a running stack."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.node import PINS, Node, install_node
from tests.clients.tls_proxy import TlsProxy, tls_proxy
from tests.samples import encoded, picture
from tests.servers import ROOT
from tests.stack import Stack

Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture's file, larger than what one read of a socket brings."""
    path = tmp_path_factory.mktemp("photos") / "cat.png"
    path.write_bytes(encoded(picture(640, 480), "PNG", compress_level=0))
    return path


@pytest.fixture(scope="session")
def node() -> Node:
    return install_node()


@pytest.fixture(scope="session")
def proxy(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsProxy]:
    with tls_proxy(stack.told["api_url"], tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def onemin(stack: Stack, proxy: TlsProxy) -> Call:
    """Call a method of PyPI's 1minai-webapi."""

    def call(method: str, key: str | None = None, **arguments: Any) -> dict[str, Any]:
        client = {"api_key": key or stack.told["api_key"], "proxy": proxy.url}
        what = {"method": method, "arguments": arguments, "client": client}
        environment = {"SSL_CERT_FILE": str(proxy.authority)}
        return run([sys.executable, "-m", "tests.clients.onemin_call"], what, environment)

    return call


@pytest.fixture(scope="session")
def vary_in_node(stack: Stack, node: Node, photo: Path) -> Call:
    """Call npm's openai; parameters are sent in the order given, the image where ``image`` stands."""

    def call(as_: str = "file", key: str | None = None, **parameters: Any) -> dict[str, Any]:
        what = {
            "baseURL": f"{stack.told['api_url']}/v1/openai",
            "apiKey": key or stack.told["api_key"],
            "path": str(photo),
            "as": as_,
            "parameters": parameters,
        }
        return run([str(node.program), str(PINS / "vary.cjs")], what, {"NODE_PATH": str(node.modules)})

    return call


def run(program: list[str], what: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Give a program JSON and return its JSON."""
    done = subprocess.run(
        program,
        input=json.dumps(what).encode(),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        timeout=100,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
