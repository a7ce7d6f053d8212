"""``python -m worker``: one GPU worker."""

from pathlib import Path

import structlog

from shared.jobs import ModelIdentity
from shared.settings import Settings
from shared.startup import start
from worker.app import Worker
from worker.redux.model import ReduxModel

log = structlog.get_logger(__name__)


def work(settings: Settings) -> None:
    """Load the model, then take jobs until SIGTERM."""
    chosen = settings.model
    model = ReduxModel.load(chosen.base, chosen.redux, dtype=chosen.dtype, device=chosen.device)
    base, redux = (Path(name).name if Path(name).is_dir() else name for name in (chosen.base, chosen.redux))
    identity = ModelIdentity(base=base, redux=redux, trained=model.trained)
    log.info("model loaded", **identity.model_dump())
    Worker(settings, model, identity).work()


if __name__ == "__main__":
    start("worker", work)
