"""Every setting, read from the environment once, in the composition roots alone.

A setting is the environment variable ``REDUXQ_<GROUP>__<NAME>``. The README's table is made from these classes.
"""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from shared.errors import Misconfigured
from shared.setting_types import MetricsPort, ProxyUrl, RedisUrl, Seconds

PREFIX = "REDUXQ_"
CLIENTS = frozenset({"REDUXQ_URL", "REDUXQ_API_KEY"})  #: for those who use a service, who may run one too


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RecordsSettings(_Group):
    url: RedisUrl = SecretStr("redis://127.0.0.1:6379/0")
    """Redis >= 7.2 or Valkey that keeps the records; `appendonly yes`, `appendfsync always`, `noeviction`"""
    durability: Literal["aof", "managed"] = "aof"
    """`aof`: refuse a server that could forget; `managed`: the operator vouches for it"""


class BrokerSettings(_Group):
    url: RedisUrl = SecretStr("redis://127.0.0.1:6379/1")
    """Redis or Valkey that carries Celery's messages; may be the records' server"""


class StorageSettings(_Group):
    endpoint: str | None = None
    """URL of the S3 API as the services reach it; empty means Amazon's"""
    public_endpoint: str | None = None
    """URL of the S3 API as clients reach it, used to sign links; empty means `endpoint`"""
    region: str = "us-east-1"
    """Region to sign for"""
    bucket: str = "reduxq"
    """Bucket for sources and variations"""
    prefix: str = ""
    """What every object key starts with, as `development/`"""
    access_key: SecretStr | None = None
    """Access key; empty means boto3's own search (environment, instance role)"""
    secret_key: SecretStr | None = Field(None, validate_default=True)
    """Secret key that belongs to it"""
    link_seconds: Seconds = Field(timedelta(days=7), gt=timedelta(0), le=timedelta(days=7))
    """How long a presigned link works, in seconds"""

    @field_validator("secret_key")
    @classmethod
    def _belongs_to_the_access_key(cls, secret: SecretStr | None, known: ValidationInfo) -> SecretStr | None:
        if (secret is None) is not (known.data.get("access_key") is None):
            raise PydanticCustomError("pair", "belongs to ACCESS_KEY: set both, or neither")
        return secret


class ApiSettings(_Group):
    host: str = "127.0.0.1"
    """Address to listen on"""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on"""
    max_upload_bytes: int = Field(50_000_000, gt=0)
    """Largest image a client may send"""
    max_pixels: int = Field(64_000_000, gt=0)
    """Most pixels an image may have"""
    decoders: int = Field(2, ge=1)
    """Images decoded at the same time, up to the cores; one of `max_pixels` takes 1.1 GB of memory meanwhile"""
    max_batch_bytes: int = Field(50_000_000, gt=0)
    """Largest manifest of a batch that a client may send"""
    max_batch_lines: int = Field(50_000, gt=0)
    """Most items that a batch may have"""
    wait_seconds: Seconds = Field(timedelta(seconds=50), gt=timedelta(0))
    """How long a blocking call waits for its job, in seconds; real clients give up at 60"""
    openai_wait_seconds: Seconds = Field(timedelta(seconds=280), gt=timedelta(0))
    """As `wait_seconds`, for the OpenAI facade; its Node SDK hangs up after 300 and asks again"""
    openai_models: tuple[str, ...] = Field(
        ("black-forest-labs/FLUX-1-Redux-dev", "black-forest-labs/flux-redux-dev"), min_length=1
    )
    """Names of the model for the OpenAI facade, the default first; add `dall-e-2` for clients that cannot change it"""
    allow_unchecked: bool = True
    """Whether a client may disable the safety checker"""
    metrics_port: MetricsPort = 0
    """Port for Prometheus, at all addresses and without a password: never let the public reach it; 0 means none"""


class TeamsSettings(_Group):
    credits_per_usd: int = Field(1_000_000, ge=1)
    """Credits that one US dollar of the price list is; a job's price is rounded up to whole credits"""
    requests_per_minute: int = Field(180, ge=1)
    """Requests a key may make in a minute"""
    open_jobs: int = Field(1000, ge=1)
    """Jobs of one team that may wait or run at a time; its batches leave half of them to its other requests"""
    open_batches: int = Field(20, ge=1)
    """Batches of one team that may be under way at a time"""
    batch_bytes: int = Field(500_000_000, ge=1)
    """What all batches of one team may take of the records server, ended ones too: about 700 bytes an item"""


class EgressSettings(_Group):
    image_urls: bool = False
    """Whether `imageUrl` may be an https URL elsewhere"""
    webhooks: bool = True
    """Whether a job may name a webhook, an https URL that is told of its end"""
    proxy: ProxyUrl | None = None
    """URL of a proxy, as `http://smokescreen:4750`, that resolves names and checks addresses in our place"""
    allowed_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks that are not public and may be reached, on any port: `["10.1.0.0/16"]`; a proxy has a list of its own"""
    timeout_seconds: Seconds = Field(timedelta(seconds=20), gt=timedelta(0))
    """How long one call may take from the name to the last byte, in seconds"""


class JobsSettings(_Group):
    lease_seconds: Seconds = Field(timedelta(seconds=6), ge=timedelta(seconds=1))
    """A worker silent for this long loses its jobs, in seconds; renewed four times as often"""
    max_failed_attempts: int = Field(3, ge=1)
    """A job whose attempts failed this often fails for good"""
    max_queue_seconds: Seconds = Field(timedelta(days=1), gt=timedelta(0))
    """A job that has not begun this long after its acceptance fails; its `maxQueueSeconds` may say less"""
    max_run_seconds: Seconds = Field(timedelta(hours=1), gt=timedelta(0))
    """An attempt that runs this long ends its job; its `maxRunSeconds` may say less"""
    preview_teraflops: int = Field(500, ge=0)
    """Jobs of at most so much work go first: six steps of one variation with 1 megapixel are 483"""
    keep_images_seconds: Seconds = Field(timedelta(days=30), gt=timedelta(0))
    """Uploads and variations are deleted this long after they came, in seconds"""
    keep_records_seconds: Seconds = Field(timedelta(days=90), gt=timedelta(0))
    """The record of a job that has ended is deleted this long after its acceptance, with its variations, in seconds"""


class DispatcherSettings(_Group):
    headroom: int = Field(0, ge=0)
    """Messages published beyond the workers' free slots: none waits for the dispatcher, and none is overtaken"""
    republish_seconds: Seconds = Field(timedelta(seconds=5), gt=timedelta(0))
    """A published job that neither the broker nor a worker has is published again after this, in seconds"""
    ageing_seconds: Seconds = Field(timedelta(minutes=5), gt=timedelta(0))
    """A job that waits this long goes among the normal ones if its priority is low, or else among the previews"""
    metrics_port: MetricsPort = 0
    """As the API's; there `GET /scale` also tells how many workers are needed, for autoscaling"""
    target_wait_seconds: Seconds = Field(timedelta(seconds=60), gt=timedelta(0))
    """As many workers are needed as end within this what waits and runs, in seconds"""
    max_workers: int = Field(8, ge=1)
    """Workers that `GET /scale` asks for at most"""
    heartbeat_file: str = ""
    """File that is touched at least every 10 s while the dispatcher lives; empty means none"""


class WorkerSettings(_Group):
    name: str = ""
    """What monitors call this worker, one name each; empty means host name and process id"""
    slots: int = Field(3, ge=1)
    """Jobs one worker holds at a time: one on the GPU, one loading, one storing"""
    ahead: int = Field(8, ge=0)
    """Jobs it takes besides, which go ahead of what it runs; two of these places are kept for previews"""
    call_tokens: int = Field(4096, ge=1)
    """Image tokens that share a call of the transformer at most: one picture of 1 megapixel, four of 0.25"""
    grace_seconds: Seconds = Field(timedelta(seconds=30), ge=timedelta(0))
    """At shutdown, how long running jobs may finish before they are handed back, in seconds"""
    stall_seconds: Seconds = Field(timedelta(seconds=120), ge=timedelta(seconds=1))
    """A model that has work and takes no step for this long ends its worker, in seconds"""
    outage_seconds: Seconds = Field(timedelta(seconds=300), ge=timedelta(0))
    """How long a job waits for an object storage that is away before its attempt fails, in seconds"""
    metrics_port: MetricsPort = 0
    """As the API's; each worker of a machine needs its own"""
    heartbeat_file: str = ""
    """File that is touched at least every 10 s from when the worker is ready, as long as its engine does not hang"""


class ModelSettings(_Group):
    base: str = "black-forest-labs/FLUX.1-dev"
    """Folder or hub id of the base model: transformer, VAE, scheduler"""
    redux: str = "black-forest-labs/FLUX.1-Redux-dev"
    """Folder or hub id of the Redux adapter: SigLIP, image embedder"""
    safety_checker: str = "Falconsai/nsfw_image_detection"
    """Folder or hub id of an image classifier with a class `nsfw`; it runs on the CPU"""
    safety_threshold: float = Field(0.5, ge=0, le=1)
    """A variation that is `nsfw` with at least this probability is withheld"""
    precision: Literal["bfloat16", "float16", "float32", "float8"] = "bfloat16"
    """Numbers the model computes in; `float8` is not exact: the transformer's products take 8 bits, the rest 16"""
    device: str = "cuda"
    """Torch device: `cuda`, `cuda:1`, `cpu`"""
    compile: bool = True
    """Whether a GPU runs the transformer's blocks compiled; a CPU never does"""
    attention: Literal["auto", "expanded", "bias"] = "auto"
    """How the prompt's absent rows count as keys: `expanded` or by `bias`; `auto`: `bias` on a CPU, else `expanded`"""
    warm_sizes: tuple[str, ...] = ("1152x896", "1024x1024", "576x448")
    """Sizes that a worker tries before it is ready: those that are asked for when nothing is said, and a preview's"""
    cache: str = ""
    """Folder for what is computed once for a model; empty means `~/.cache/reduxq`"""
    conditions_bytes: int = Field(268_435_456, ge=0)
    """Device memory for what the model sees of the last sources, 4.5 MB each"""


class LogSettings(_Group):
    format: Literal["text", "json"] = "text"
    """One line of text or one JSON object for each event"""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is written"""


class Settings(BaseSettings):
    """All settings of all processes; each process reads the groups it needs."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True
    )

    records: RecordsSettings = RecordsSettings()
    broker: BrokerSettings = BrokerSettings()
    storage: StorageSettings = StorageSettings()
    api: ApiSettings = ApiSettings()
    teams: TeamsSettings = TeamsSettings()
    egress: EgressSettings = EgressSettings()
    jobs: JobsSettings = JobsSettings()
    dispatcher: DispatcherSettings = DispatcherSettings()
    worker: WorkerSettings = WorkerSettings()
    model: ModelSettings = ModelSettings()
    log: LogSettings = LogSettings()


def load_settings() -> Settings:
    """Return the settings that the environment gives.

    Raises:
        Misconfigured: If a variable is unknown or its value is not allowed; every fault is named.
    """
    groups = tuple(f"{PREFIX}{name.upper()}__" for name in Settings.model_fields)
    ours = {name for name in os.environ if name.startswith(PREFIX)} - CLIENTS
    unknown = sorted(name for name in ours if not name.startswith(groups))
    if unknown:
        raise Misconfigured(f"unknown setting {', '.join(unknown)}; settings are named {PREFIX}<GROUP>__<NAME>")
    try:
        return Settings()
    except SettingsError as error:
        raise Misconfigured(f'{error}; a list is JSON, as ["one", "two"]') from error
    except ValidationError as error:
        raise Misconfigured("; ".join(_explain(fault) for fault in error.errors())) from error


def _explain(fault: Mapping[str, Any]) -> str:
    """Return what is wrong; the value only where it cannot be a secret."""
    name = PREFIX + "__".join(str(part).upper() for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{name} is no setting"
    secret = fault["loc"][-1] in {"url", "access_key", "secret_key", "proxy"}
    return f"{name}: {fault['msg']}" + ("" if secret else f", not {fault['input']!r}")


class Setting(NamedTuple):
    """A variable of the environment."""

    variable: str
    default: str  #: as it is typed; empty for none
    meaning: str


def all_settings() -> Iterator[Setting]:
    """Give every setting."""
    for group, field in Settings.model_fields.items():
        defaults = field.default.model_dump()
        for name, inner in type(field.default).model_fields.items():
            default = defaults[name]
            shown = default.get_secret_value() if isinstance(default, SecretStr) else default
            text = "" if shown in (None, "", ()) else shown if isinstance(shown, str) else _typed(shown)
            yield Setting(f"{PREFIX}{group.upper()}__{name.upper()}", text, str(inner.description))


def settings_table() -> str:
    """Return all settings as a Markdown table: variable, default, meaning."""
    rows = (f"| `{name}` | {default and f'`{default}`'} | {meaning} |" for name, default, meaning in all_settings())
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def _typed(value: object) -> str:
    """Return a value as it is typed into the environment."""
    return f"{value:.10g}" if isinstance(value, float) else json.dumps(value)
