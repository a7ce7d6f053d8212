"""``python -m tests.faults.halting_dispatcher``: the real dispatcher, which a test can stop before it publishes."""

from collections.abc import Sequence

from api.dispatcher import dispatch
from shared.ids import JobId
from shared.queue import Broker
from shared.startup import start
from tests.faults.halts import halt

publish = Broker.publish


def halting_publish(broker: Broker, jobs: Sequence[JobId], queue: str) -> None:
    """Publish; by then the jobs are marked as published."""
    halt("before-publish")
    publish(broker, jobs, queue)


if __name__ == "__main__":
    setattr(Broker, "publish", halting_publish)  # noqa: B010  mypy takes assignments for mistakes
    start("dispatcher", dispatch)
