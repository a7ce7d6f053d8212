"""``python -m worker``: one GPU worker."""

from pathlib import Path

import structlog

from shared.jobs import ModelIdentity
from shared.settings import Settings
from shared.startup import start
from worker.app import Worker
from worker.redux.model import ReduxModel
from worker.redux.safety import SafetyChecker

log = structlog.get_logger(__name__)


def work(settings: Settings) -> None:
    """Load the safety checker and the model, then take jobs until SIGTERM."""
    chosen = settings.model
    checker = SafetyChecker.load(chosen.safety_checker)
    model = ReduxModel.load(chosen.base, chosen.redux, dtype=chosen.dtype, device=chosen.device)
    places = (chosen.base, chosen.redux, chosen.safety_checker)
    base, redux, safety_checker = (Path(name).name if Path(name).is_dir() else name for name in places)
    identity = ModelIdentity(base=base, redux=redux, trained=model.trained, safety_checker=safety_checker)
    log.info("model loaded", **identity.model_dump())
    Worker(settings, model, checker.scores, identity).work()


if __name__ == "__main__":
    start("worker", work)
