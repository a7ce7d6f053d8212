"""A Valkey and an S3 server on which a test builds what it needs, and which it may stop and start again."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from shared.connections import connect
from shared.object_store import ObjectStore
from shared.settings import StorageSettings
from tests import servers


class Ground:
    """Servers of one test.

    Args:
        folder: For their data, and everybody's logs.
        living: Ends them.
    """

    def __init__(self, folder: Path, living: ExitStack) -> None:
        self.folder = folder
        self._living = living
        self._ports = {servers.valkey: servers.free_port(), servers.s3: servers.free_port()}
        self._servers: dict[Any, ExitStack] = {}
        self.url, endpoint = self.serve(servers.valkey), self.serve(servers.s3)
        self.environment = servers.settings_for(self.url, endpoint)
        self.records = living.enter_context(connect(self.url))
        keys = {"access_key": SecretStr(servers.ACCESS_KEY), "secret_key": SecretStr(servers.SECRET_KEY)}
        self.storage = StorageSettings(endpoint=endpoint, bucket="tests", **keys)
        self.objects = ObjectStore(self.storage)

    def serve(self, server: Any) -> str:
        """Start ``servers.valkey`` or ``servers.s3``, for the first time or again, and give its URL."""
        self._servers[server] = self._living.enter_context(ExitStack())
        url: str = self._servers[server].enter_context(server(self.folder / server.__name__, port=self._ports[server]))
        return url

    def stop(self, server: Any) -> None:
        """Stop one of them; Valkey is killed."""
        if server is servers.valkey:
            os.kill(self.valkey_pid(), signal.SIGKILL)
        self._servers[server].close()

    def valkey_pid(self) -> int:
        info: Any = self.records.info("server")
        return int(info["process_id"])

    def log(self, name: str) -> str:
        """Return what a process wrote so far."""
        return (self.folder / f"{name}.log").read_text()
