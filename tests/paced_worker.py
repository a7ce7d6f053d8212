"""``python -m tests.paced_worker``: a real worker around a model without weights."""

from shared.settings import Settings
from shared.startup import start
from tests.models import ChosenScores, PacedModel
from tests.samples import MODEL
from worker.app import Worker


def work(settings: Settings) -> None:
    Worker(settings, PacedModel(pace=0.03), ChosenScores(), MODEL).work()


if __name__ == "__main__":
    start("worker", work)
