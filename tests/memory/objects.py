"""A bucket."""

from hashlib import sha256
from typing import BinaryIO

from shared.errors import NotFound
from shared.ids import AssetKey
from shared.object_store import ObjectStore


class MemoryObjects(ObjectStore):
    """All of an object store but links that work."""

    def __init__(self) -> None:
        self.bucket = "memory"
        self.stored: dict[AssetKey, bytes] = {}
        self._public_endpoint = "http://storage.example"

    def put(self, key: AssetKey, body: BinaryIO | bytes, content_type: str) -> str:
        data = body if isinstance(body, bytes) else body.read()
        self.stored[key] = data
        return f'"{sha256(data).hexdigest()}"'

    def get(self, key: AssetKey) -> bytes:
        if key not in self.stored:
            raise NotFound(f"there is no object {key}")
        return self.stored[key]

    def delete(self, key: AssetKey) -> None:
        self.stored.pop(key, None)
