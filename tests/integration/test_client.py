"""The Python client and what its documentation says, at a whole local stack."""

import doctest
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import reduxq
import reduxq.batches
import reduxq.client
import reduxq.job
from reduxq import Client, errors
from tests.samples import encoded, picture
from tests.stack import Stack

QUICK: Any = {"megapixels": "0.25", "num_inference_steps": 2}


@pytest.fixture
def ours(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, where the stack is the service."""
    monkeypatch.setenv("REDUXQ_URL", stack.told["api_url"])
    monkeypatch.setenv("REDUXQ_API_KEY", stack.told["api_key"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(encoded(picture(320, 240), "PNG"))
    return tmp_path


@pytest.mark.parametrize("module", [reduxq.client, reduxq.job, reduxq.batches], ids=lambda module: module.__name__)
def test_the_examples_in_the_documentation_work(ours: Path, module: object) -> None:
    with Client() as client:
        globs = {"reduxq": reduxq, "client": client}
        found = [test for test in doctest.DocTestFinder().find(module, extraglobs=globs) if test.examples]
        assert found
        for test in found:
            told: list[str] = []
            results = doctest.DocTestRunner().run(test, out=told.append)
            assert results.failed == 0, "".join(told)


def test_an_image_may_come_in_every_way(ours: Path) -> None:
    data = (ours / "cat.png").read_bytes()
    with Client() as client:
        key = client.upload(ours / "cat.png")
        jobs = [client.variations.create(each, **QUICK) for each in (data, BytesIO(data), "cat.png", key)]
        assert [job.wait(60).status for job in jobs] == ["SUCCESS"] * 4
        with pytest.raises(FileNotFoundError):
            client.upload("nowhere.png")


def test_variations_of_a_job_are_written_and_never_in_the_place_of_another_jobs(ours: Path) -> None:
    with Client() as client:
        jobs = [client.variations.create("cat.png", num_outputs=2, seed=7, **QUICK) for _ in range(2)]
        paths = [path for job in jobs for path in job.wait(60).download("out")]
        assert jobs[0].seeds == [7, 8]
        assert jobs[0].price["charged"] > 0
    assert sorted(paths) == sorted((ours / "out").relative_to(ours) / path.name for path in (ours / "out").iterdir())
    assert len(paths) == 4
    with Image.open(paths[0]) as image:
        assert image.format == "WEBP"


def test_a_job_that_was_canceled_says_so_in_every_way(ours: Path) -> None:
    with Client() as client:
        job = client.variations.create("cat.png", num_outputs=4, megapixels="1", num_inference_steps=50).cancel()
        assert isinstance(client.jobs.get(job.uuid).error, errors.Canceled)
        with pytest.raises(errors.Canceled):
            job.wait(60)


def test_the_same_idempotency_key_gives_the_same_job(ours: Path) -> None:
    with Client() as client:
        key = client.upload("cat.png")
        first, again = (client.variations.create(key, idempotency_key="once", **QUICK) for _ in range(2))
        assert first.uuid == again.uuid
        with pytest.raises(errors.IdempotencyKeyReused):
            client.variations.create(key, idempotency_key="once", num_outputs=2, **QUICK)
        first, again = (client.variations.create("cat.png", idempotency_key="file", **QUICK) for _ in range(2))
        assert first.uuid == again.uuid


def test_a_refusal_names_the_field(ours: Path) -> None:
    with Client() as client, pytest.raises(errors.InvalidRequest, match="num_outputs") as refused:
        client.variations.create("cat.png", num_outputs=5)
    assert refused.value.details[0]["value"] == 5
    with Client(api_key="rq_no_key") as client, pytest.raises(errors.Unauthorized):
        next(client.jobs.list())


def test_a_batch_goes_its_way(ours: Path) -> None:
    with Client() as client:
        key = client.upload("cat.png")
        items: list[dict[str, Any]] = [
            {"imageUrl": key, "customId": "good"},
            {"imageUrl": key, "seed": -1, "customId": "bad"},
        ]
        batch = client.batches.create(items, defaults=QUICK, metadata={"night": 1}).wait(60)
        assert (batch.status, batch.counts["succeeded"], batch.counts["failed"]) == ("SUCCESS", 1, 1)
        assert client.batches.get(batch.uuid).record["metadata"] == {"night": 1}
        assert batch.uuid in [each.uuid for each in client.batches.list()]
        (bad,) = batch.items(status="FAILURE")
        assert (bad["customId"], "seed" in bad["error"]["message"]) == ("bad", True)
        good, _ = batch.results()
        assert [path.name for path in batch.download("out")] == [f"{good['line']}-1.webp"]
        assert batch.retry().wait(60).counts["failed"] == 1
        canceled = client.batches.create([{"imageUrl": key}], defaults={"num_inference_steps": 50}).cancel()
        assert canceled.wait(60).status == "CANCELED"
