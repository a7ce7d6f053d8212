"""``python -m worker``: one GPU worker."""

import sys

import structlog

from shared.errors import ReduxqError
from shared.jobs import ModelIdentity
from shared.log import configure_logging
from shared.settings import load_settings
from worker.app import Worker
from worker.redux.model import ReduxModel

log = structlog.get_logger(__name__)


def main() -> None:
    """Load the model, then work until SIGTERM."""
    try:
        settings = load_settings()
        configure_logging(settings.log)
        chosen = settings.model
        model = ReduxModel.load(chosen.base, chosen.redux, dtype=chosen.dtype, device=chosen.device)
        identity = ModelIdentity(base=chosen.base, redux=chosen.redux, trained=model.trained)
        log.info("model loaded", **identity.model_dump())
        Worker(settings, model, identity).work()
    except ReduxqError as error:
        sys.exit(f"reduxq worker: {error.message}")


if __name__ == "__main__":
    main()
