"""``python -m worker``: one GPU worker."""

import re
from pathlib import Path

import structlog

from shared.clock import Clock
from shared.errors import Misconfigured
from shared.jobs import ModelIdentity
from shared.metrics import serve
from shared.settings import Settings
from shared.sizes import Size
from shared.startup import start
from worker import metrics
from worker.app import Worker
from worker.redux.model import ReduxModel
from worker.redux.safety import SafetyChecker
from worker.redux.weights import load_weights

log = structlog.get_logger(__name__)


def work(settings: Settings) -> None:
    """Load the safety checker and the model, then take jobs until SIGTERM."""
    serve(settings.worker.metrics_port)
    clock, chosen = Clock(), settings.model
    began = clock.monotonic()
    checker = SafetyChecker.load(chosen.safety_checker)
    sizes = [parse_size(text) for text in chosen.warm_sizes]
    weights = load_weights(chosen.base, chosen.redux, precision=chosen.precision, device=chosen.device)
    places = (chosen.base, chosen.redux, chosen.safety_checker)
    base, redux, safety_checker = (Path(name).name if Path(name).is_dir() else name for name in places)
    identity = ModelIdentity(
        base=base,
        redux=redux,
        trained=weights.trained,
        safety_checker=safety_checker,
        precision=chosen.precision,
    )
    log.info("model loaded", **identity.model_dump())
    model = ReduxModel(weights, chosen)
    model.warm(sizes, call_tokens=settings.worker.call_tokens)
    metrics.loaded(clock.monotonic() - began, model.memory)
    Worker(settings, model, checker.scores, identity).work()


def parse_size(text: str) -> Size:
    """Return the size that a setting names.

    Raises:
        Misconfigured: If it names none that can be made.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    size = Size(*map(int, found.groups())) if found else Size(0, 0)
    if not all(side and side % 16 == 0 for side in size):
        raise Misconfigured(f"REDUXQ_MODEL__WARM_SIZES: {text!r} is no size as 1024x1024, both multiples of 16")
    return size


if __name__ == "__main__":
    start("worker", work)
