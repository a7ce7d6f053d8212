"""One town for all tests that leave it standing."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.town import Town


@pytest.fixture(scope="package")
def shared_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with ExitStack() as living:
        town = Town(tmp_path_factory.mktemp("town"), living)
        yield town
        town.crew.end()


@pytest.fixture
def town(shared_town: Town) -> Iterator[Town]:
    """A town in good order, in which afterwards no promise may be found broken."""
    shared_town.crew.revive()
    yield shared_town
    shared_town.halts.release()
    for job_id in shared_town.accepted:
        shared_town.ended(job_id)
    assert shared_town.tally().broken == {}
