"""What an error of the hub or of a loader means to an operator."""

from collections.abc import Iterator
from typing import Final

from httpx2 import TransportError
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError

from shared.errors import ModelUnavailable

#: What loading or pulling raises when files or the network are at fault.
FAILURES: Final = (OSError, TransportError, HFValidationError, SafetensorError)

#: HTTP statuses with which the hub asks who is there, or turns that person away.
_REFUSALS: Final = frozenset({401, 403})


def unavailable(error: Exception, *, wanted: str, place: str) -> ModelUnavailable:
    """Return what to raise ``from error`` when ``wanted`` could not be had at ``place``, a folder or a hub id."""
    return ModelUnavailable(f"{wanted} cannot be had from {place}: {_meaning(error, place)}")


def _meaning(error: Exception, place: str) -> str:
    """Return cause plus remedy in one line.

    The loaders wrap the hub's errors in a bare OSError, so the whole chain is searched. The order counts: a gated
    repository is also one not found, and a file missing from an unreachable hub is also an entry not found.
    """
    chain = tuple(_chain(error))
    if any(_refused(link) for link in chain):
        return (
            f"the hub refuses access; accept the licence at https://huggingface.co/{place}, "
            "set HF_TOKEN to a token of that account, then run `reduxq model pull`"
        )
    if any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return (
            "there is no such folder here, and the hub knows no such repository or hides it; "
            "check the name, set HF_TOKEN, then run `reduxq model pull`"
        )
    if any(isinstance(link, HFValidationError) for link in chain):
        return "there is no such folder, and it is no hub id either; run `reduxq model pull` or mend the setting"
    if any(isinstance(link, LocalEntryNotFoundError | ConnectionError | TransportError) for link in chain):
        return "it is not on this machine, and the hub cannot be reached; run `reduxq model pull` where it can"
    if any(isinstance(link, EntryNotFoundError) for link in chain):
        return "the repository lacks a file; check that the id names the right one"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{reason} (run `reduxq model pull` to fetch it again)"


def _refused(error: BaseException) -> bool:
    if isinstance(error, GatedRepoError):
        return True
    if isinstance(error, RepositoryNotFoundError) or not isinstance(error, HfHubHTTPError):
        return False
    return getattr(error.response, "status_code", None) in _REFUSALS


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
