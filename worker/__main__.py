"""``python -m worker``: one GPU worker."""

from pathlib import Path

import structlog

from shared.clock import Clock
from shared.errors import Misconfigured
from shared.jobs import ModelIdentity
from shared.metrics import serve
from shared.settings import Settings
from shared.sizes import TOKEN_PIXELS, Size
from shared.startup import start
from worker import metrics
from worker.app import Worker
from worker.redux.latents import grid
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
    places = chosen.model_dump(include={"base", "redux", "safety_checker"})
    names = {part: Path(place).name if Path(place).is_dir() else place for part, place in places.items()}
    identity = ModelIdentity(**names, trained=weights.trained, precision=chosen.precision)
    log.info("model loaded", **identity.model_dump())
    model = ReduxModel(weights, chosen)
    model.warm(sizes, call_tokens=settings.worker.call_tokens)
    metrics.loaded(clock.monotonic() - began, model.memory)
    Worker(settings, model, checker.scores, identity, gpu=model.gpu).work()


def parse_size(text: str) -> Size:
    """Return the size that a setting names.

    Raises:
        Misconfigured: If it names none that can be made.
    """
    try:
        size = Size(*map(int, text.split("x")))
        grid(size)
    except (TypeError, ValueError) as error:
        what = f"{text!r} is no size as 1024x1024, both multiples of {TOKEN_PIXELS}"
        raise Misconfigured(f"REDUXQ_MODEL__WARM_SIZES: {what}") from error
    return size


if __name__ == "__main__":
    start("worker", work)
