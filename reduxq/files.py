"""Files as the client reads and writes them."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from uuid import uuid4

from reduxq.connection import Connection
from reduxq.errors import ReduxqError


def keep(path: Path, content: bytes, *, mode: int = 0o666) -> Path:
    """Write a file that nobody ever sees half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.part")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:  # noqa: PTH123  the mode
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # before anything says that it is there
    return unfinished.replace(path)


def fetch(connection: Connection, links: Iterable[str], folder: Path, stem: str) -> list[Path]:
    """Write the pictures behind links into a folder, as ``<stem>-1.webp`` and so on, and return their paths.

    Raises:
        ReduxqError: If the stem, which may be the service's word, leads out of the folder.
    """
    if Path(stem).anchor or ".." in Path(stem).parts:
        raise ReduxqError(f"{stem!r} leads out of {folder}")
    return [
        keep(folder / f"{stem}-{n}{PurePosixPath(urlsplit(link).path).suffix}", connection.download(link))
        for n, link in enumerate(links, start=1)
    ]
