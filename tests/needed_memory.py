"""How much memory a container needs, for the tests that look at its limit."""

from typing import Final

from api.batch_feeder import DECODERS
from api.decoding import most_memory
from api.services import FETCHES
from shared.settings import Settings

OWN: Final = 400_000_000  #: bytes of the process itself, as tests/integration/test_hostile_uploads.py allows


def needed_memory(settings: Settings) -> dict[str, int]:
    """Return the bytes that API and dispatcher may hold while they fetch and decode the largest images."""
    rules = settings.api
    each = most_memory(rules.max_upload_bytes, rules.max_pixels)
    fetched = FETCHES * rules.max_upload_bytes
    return {name: OWN + fetched + count * each for name, count in (("api", rules.decoders), ("dispatcher", DECODERS))}
