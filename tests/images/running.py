"""docker-compose.yml's profile ``cpu``, run by podman-compose from images that were built here."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.composed import composed
from tests.images.building import API, SERVERS, WORKER, call
from tests.servers import free_port

NAME: Final = "reduxq-images-test"
IMAGES: Final = {"reduxq-api:0.1.0": API, "reduxq-worker:0.1.0-cpu": WORKER}
#: What podman does not know, or what needs a registry.
DROPPED: Final = ("build", "env_file", "logging", "profiles")
FLOWER_PASSWORD: Final = "flower-secret"


@dataclass(frozen=True)
class Running:
    """The composition as its users and its operator see it."""

    services: dict[str, Any]
    ports: dict[str, int]

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def container(self, service: str) -> str:
        return f"{NAME}_{service}_1"

    def call(self, service: str, *arguments: str) -> str:
        """Run a command in a container."""
        return call("podman", "exec", self.container(service), *arguments)

    def fails(self, service: str, *arguments: str) -> bool:
        command = ["podman", "exec", self.container(service), *arguments]
        return subprocess.run(command, check=False, capture_output=True).returncode != 0

    def logs(self) -> str:
        """Return the last lines of every container."""
        commands = [["podman", "logs", "--tail", "20", self.container(service)] for service in self.services]
        told = [subprocess.run(command, check=False, capture_output=True, text=True) for command in commands]
        return "\n".join(done.stdout + done.stderr for done in told)


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    """Start the composition, hand it out and remove it with its volumes."""
    ports = {name: free_port() for name in ("api", "s3", "flower")}
    content = translated(ports)
    file = folder / "compose.json"
    file.write_text(json.dumps(content))
    compose = (sys.executable, "-m", "podman_compose", "--project-name", NAME, "--file", file)
    try:
        call(*compose, "up", "--detach")
        yield Running(content["services"], ports)
    finally:
        call(*compose, "down", "--volumes", "--timeout", "5")


def translated(ports: dict[str, int]) -> dict[str, Any]:
    """Return the file for podman: profile ``cpu``, our images, free ports; all else as it stands."""
    secrets = ("REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "GRAFANA_PASSWORD")
    public = {"S3_PUBLIC_URL": f"http://127.0.0.1:{ports['s3']}", "FLOWER_PASSWORD": FLOWER_PASSWORD}
    content = composed(dict.fromkeys(secrets, "only-for-tests") | public)
    services = {
        name: service for name, service in content["services"].items() if "cpu" in service.get("profiles", ["cpu"])
    }
    for name, service in services.items():
        for field in DROPPED:
            service.pop(field, None)
        service["image"] = IMAGES.get(service["image"], SERVERS)
        if name in ports:
            service["ports"] = [f"127.0.0.1:{ports[name]}:{service['ports'][0].rpartition(':')[2]}"]
        for needed in service.get("depends_on", {}).values():
            if needed["condition"] == "service_healthy":  # podman 4.3 cannot wait for that
                needed["condition"] = "service_started"
    services["s3"]["entrypoint"] = ["stand-in-for-versitygw"]
    for stand_in in ("redis", "s3"):
        del services[stand_in]["healthcheck"]  # asks by programs that are not in the stand-in
    volumes = {mount.partition(":")[0] for service in services.values() for mount in service.get("volumes", ())}
    return {"services": services, "networks": content["networks"], "volumes": dict.fromkeys(volumes)}
