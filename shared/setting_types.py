"""How settings that are more than a number or a word are written."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr
from pydantic_core import PydanticCustomError
from redis.connection import parse_url


def _seconds(value: object) -> object:
    return timedelta(seconds=float(value)) if isinstance(value, str | int | float) else value


def _redis_url(value: object) -> object:
    try:
        parse_url(_revealed(value))  # type: ignore[no-untyped-call]
    except ValueError:
        raise PydanticCustomError("redis_url", "must look like redis://:password@host:6379/0") from None
    return value


def _proxy_url(value: object) -> object:
    try:
        parts = urlsplit(_revealed(value))
        usable = parts.scheme == "http" and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise PydanticCustomError("proxy_url", "must look like http://host:4750")
    return value


def _revealed(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


ProxyUrl = Annotated[SecretStr, BeforeValidator(_proxy_url)]
MetricsPort = Annotated[int, Field(ge=0, le=65535)]
RedisUrl = Annotated[SecretStr, BeforeValidator(_redis_url)]
Seconds = Annotated[timedelta, BeforeValidator(_seconds), PlainSerializer(timedelta.total_seconds)]
