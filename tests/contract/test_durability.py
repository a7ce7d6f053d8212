from datetime import timedelta
from pathlib import Path

import pytest

from shared import dispatch_store, presence
from shared.connections import connect, run
from shared.errors import Misconfigured, RecordsUnavailable
from shared.startup import require_durable
from tests import queues, servers
from tests.contract.rounds import STORE
from tests.samples import fund, record


def test_a_server_that_syncs_before_it_answers_is_good(tmp_path: Path) -> None:
    with servers.valkey(tmp_path) as url, connect(url) as records:
        run(records, require_durable("aof"))


@pytest.mark.parametrize(
    ("appendonly", "appendfsync", "message"),
    [("no", "always", "appendonly yes"), ("yes", "everysec", "appendfsync everysec"), ("yes", "no", "appendfsync no")],
)
def test_a_server_that_could_forget_is_refused_unless_the_operator_vouches_for_it(
    tmp_path: Path, appendonly: str, appendfsync: str, message: str
) -> None:
    with servers.valkey(tmp_path, appendonly=appendonly, appendfsync=appendfsync) as url, connect(url) as records:
        with pytest.raises(Misconfigured, match=f"{message}.*REDUXQ_RECORDS__DURABILITY=managed"):
            run(records, require_durable("aof"))
        run(records, require_durable("managed"))


def test_a_server_that_is_loading_its_data_is_not_taken_for_one_without_an_append_only_file() -> None:
    asking = require_durable("aof")
    assert next(asking) == ("INFO", "persistence")
    with pytest.raises(RecordsUnavailable, match="loading"):
        asking.send({"loading": 1, "aof_enabled": 0})  # as Valkey 9.1 answers then


def test_a_full_server_takes_no_job_and_still_tells_how_it_stands(tmp_path: Path) -> None:
    with servers.valkey(tmp_path) as url, connect(url) as records:
        fund(records)
        run(records, presence.announce_worker("one", queues.LIFE, timedelta(seconds=9)))
        records.config_set("maxmemory", 1)
        with pytest.raises(RecordsUnavailable, match="takes no writes"):
            run(records, STORE.accept(record()))
        told = run(records, dispatch_store.figures())
        assert (told.workers, told.full > 1) == (1, True)
        assert run(records, STORE.running()) == ([], [])
