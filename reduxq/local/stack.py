"""The local all-in-one stack: Valkey, S3, API, dispatcher, workers, Flower."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rich.console import Console

from reduxq.local import parts, readiness
from reduxq.local.folder import DataFolder
from reduxq.local.ports import draw_ports, require_free
from reduxq.local.supervisor import Supervisor
from shared.connections import connect, run
from shared.errors import Unauthorized
from shared.keys import check_key, create_key
from shared.presence import living_workers, retire_worker
from shared.settings import load_settings

OWNER: Final = "local"  #: team and user of the stack's own key


@contextmanager
def running_stack(
    data: Path, console: Console, signals: Sequence[int], *, port: int = 0, workers: int = 1
) -> Iterator["Stack"]:
    """Start a stack in a data folder, hand it out when it is ready and stop it in the end.

    Raises:
        ReduxqError: If it cannot be started.
        KeyboardInterrupt: If the user wants to stop before it is ready.
    """
    load_settings()  # a mistyped setting is said here, once, and not by every part
    parts.require_installed()
    parts.require_whole_model()
    with DataFolder.locked(data) as folder:
        kept = folder.load()
        wished = kept.ports | ({"api": require_free(port)} if port else {})
        # The same ones as before, so that an asset's location and a link outlive a restart.
        kept = kept.model_copy(update={"ports": draw_ports(("api", "redis", "s3", "flower"), wished)})
        folder.save(kept)
        plan = parts.Plan(folder.path, kept, workers)
        stack = Stack(plan, folder, Supervisor(folder, console, signals))
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


class Stack:
    """One stack in its data folder."""

    def __init__(self, plan: parts.Plan, folder: DataFolder, supervisor: Supervisor) -> None:
        self.plan = plan
        self.supervisor = supervisor
        self.logs = folder.logs
        self.api_key = ""
        self._folder = folder

    def start(self) -> None:
        """Start everything, what needs no other at the same time, and return when all of it is ready."""
        supervisor, plan = self.supervisor, self.plan
        supervisor.start(parts.redis(plan), parts.s3(plan), *parts.model_makers(plan))
        supervisor.wait_for({"redis": lambda: readiness.records(plan)})
        self._forget_workers()
        self.api_key = self._ensure_key()
        supervisor.start(*parts.front(plan), parts.flower(plan))
        supervisor.wait_for({"model": lambda: "model" not in supervisor.pids})
        supervisor.start(*parts.workers(plan))
        supervisor.wait_for(readiness.services(plan))
        supervisor.starting = False
        self._publish()

    def stop(self) -> None:
        """Stop everything: first what takes work, last what keeps it."""
        self._folder.remove_stack()
        keepers = {"redis", "s3"}
        self.supervisor.stop(*self.supervisor.pids.keys() - keepers)
        self.supervisor.stop(*keepers)

    def _forget_workers(self) -> None:
        """Forget the workers of a stack that was killed: they are believed alive for some seconds more."""
        with connect(self.plan.redis_url(0)) as records:
            for name in run(records, living_workers()):
                run(records, retire_worker(name))

    def _ensure_key(self) -> str:
        """Return the folder's API key, made if there is none or it is no longer good."""
        kept = self.plan.kept
        with connect(self.plan.redis_url(0)) as records:
            with suppress(Unauthorized):
                run(records, check_key(kept.api_key))
                return kept.api_key
            made = run(records, create_key(OWNER, OWNER))
        self._folder.save(kept.model_copy(update={"api_key": made}))
        return made

    def _publish(self) -> None:
        """Tell other programs where the parts are."""
        plan = self.plan
        self._folder.write_stack(
            {
                "api_url": plan.url("api"),
                "api_key": self.api_key,
                "s3_url": plan.url("s3"),
                "redis_url": plan.redis_url(0),
                "flower_url": plan.url("flower"),
                "flower_user": plan.kept.flower_user,
                "flower_password": plan.kept.flower_password,
                "environment": parts.environment(plan),
            }
        )
