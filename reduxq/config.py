"""Which service, and which key to it: from the environment, or from a file that its owner alone can read."""

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

from reduxq.errors import ReduxqError, Unauthorized
from reduxq.files import keep

URL: Final = "REDUXQ_URL"
API_KEY: Final = "REDUXQ_API_KEY"
LOCAL: Final = "http://127.0.0.1:8000"  #: where ``reduxq up`` listens
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO  #: permissions that anyone but the owner may have


class Misconfigured(ReduxqError):
    """The configuration cannot be used."""


class Access(NamedTuple):
    """A service and a key to it."""

    url: str
    api_key: str


def find_access(url: str | None = None, api_key: str | None = None) -> Access:
    """Return what was said, or else what the environment says, or else the file.

    The file's key goes to the file's service and nowhere else.

    Raises:
        Unauthorized: If there is no key.
        Misconfigured: If the URL is none, or others can read the file.
    """
    url, api_key = url or os.environ.get(URL), api_key or os.environ.get(API_KEY)
    if not (url and api_key):
        kept = _read(config_file())
        url = url or kept.get("url") or LOCAL
        api_key = api_key or (kept.get("api_key") if url == kept.get("url") else None)
    if not re.fullmatch(r"https?://(\[[0-9a-f:]+\]|[\w.-]+)(:\d+)?(/[\w./~-]*)?", url, re.IGNORECASE):
        raise Misconfigured(f"the service's URL must look like https://images.example.org, not {url!r}")
    if not api_key:
        raise Unauthorized(f"there is no API key for {url}: set {API_KEY}, or run `reduxq login`")
    return Access(url, api_key)


def config_file() -> Path:
    """Return where the file is."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "reduxq" / "config.toml"


def save_access(access: Access) -> Path:
    """Write the file, for its owner alone."""
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in access._asdict().items())
    return keep(config_file(), text.encode(), mode=stat.S_IRUSR | stat.S_IWUSR)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & OTHERS:
                raise Misconfigured(f"{path} holds a key and others can read it; mend that: chmod 600 {path}")
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{path}: {error}; write it anew: reduxq login") from error
