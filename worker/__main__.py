"""``python -m worker``: one GPU worker."""

from pathlib import Path

import structlog

from shared.jobs import ModelIdentity
from shared.settings import Settings
from shared.startup import start
from worker.app import Worker
from worker.redux.model import ReduxModel
from worker.redux.safety import SafetyChecker
from worker.redux.weights import load_weights

log = structlog.get_logger(__name__)


def work(settings: Settings) -> None:
    """Load the safety checker and the model, then take jobs until SIGTERM."""
    chosen = settings.model
    checker = SafetyChecker.load(chosen.safety_checker)
    weights = load_weights(chosen.base, chosen.redux, dtype=chosen.dtype, device=chosen.device)
    places = (chosen.base, chosen.redux, chosen.safety_checker)
    base, redux, safety_checker = (Path(name).name if Path(name).is_dir() else name for name in places)
    identity = ModelIdentity(base=base, redux=redux, trained=weights.trained, safety_checker=safety_checker)
    log.info("model loaded", **identity.model_dump())
    Worker(settings, ReduxModel(weights), checker.scores, identity).work()


if __name__ == "__main__":
    start("worker", work)
