"""What ``reduxq batch`` decides by itself: which pictures, under which names, and what was done already."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from reduxq import Client
from reduxq.batches import Batch
from reduxq.cli.batch import Misuse, collect
from reduxq.cli.following import Follower, Run, stems_of
from reduxq.cli.state import FILE, State
from reduxq.cli.telling import Teller
from reduxq.errors import ReduxqError
from tests.scripted import Answer, refusal, scripted
from tests.servers import wait_until


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("cat.png", "dog.JPG", "notes.txt", "sub/cat.webp"):
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folders_pictures_are_found_and_nothing_else(photos: Path, tmp_path: Path) -> None:
    assert list(collect([str(photos)], tmp_path / "out")) == ["cat.png", "dog.JPG", "sub/cat.webp"]


def test_the_variations_of_an_earlier_run_are_not_varied(photos: Path) -> None:
    assert list(collect([str(photos)], photos / "sub")) == ["cat.png", "dog.JPG"]


def test_files_and_globs_are_taken_as_they_are(photos: Path, tmp_path: Path) -> None:
    (photos / "odd [1].png").touch()
    found = collect([f"{photos}/*.txt", str(photos / "dog.JPG"), str(photos / "odd [1].png")], tmp_path)
    assert list(found) == ["dog.JPG", "notes.txt", "odd [1].png"]


def test_a_path_without_pictures_and_a_name_that_comes_twice_are_said(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="no pictures at nowhere"):
        collect(["nowhere"], tmp_path)
    (photos / "sub" / "cat.png").touch()
    with pytest.raises(Misuse, match=r"two pictures are called cat\.png"):
        collect([str(photos / "cat.png"), str(photos / "sub" / "cat.png")], tmp_path)


def test_variations_of_two_pictures_never_have_the_same_name() -> None:
    stems = stems_of(["cat.png", "Cat.jpg", "dog.png", "sub/cat.png", "cat-1.png"])
    assert stems == {
        "cat.png": "cat.png",
        "Cat.jpg": "Cat.jpg",
        "dog.png": "dog",
        "sub/cat.png": "sub/cat",
        "cat-1.png": "cat-1",
    }
    written = [f"{stem}-{n}.webp".casefold() for stem in stems.values() for n in range(1, 5)]
    assert len(set(written)) == len(written)


def test_what_was_done_is_known_again_even_if_the_last_line_was_cut(tmp_path: Path) -> None:
    with State(tmp_path) as state:
        assert not state.begun
        state.note(picture="digest", key="images/cat.png")
        state.note(post="refused", manifest='{"defaults": {}}\n{"customId": "x"}\n')
        state.note(post="refused", refused=True)
        state.note(post="sent", manifest='{"defaults": {}}\n{"customId": "a"}\n')
        state.note(post="sent", batch="uuid")
        state.note(post="lost", manifest='{"defaults": {}}\n{"customId": "b"}\n')
        state.note(saved="job")
    with (tmp_path / FILE).open("a") as file:
        file.write('{"saved": "cut')
    with State(tmp_path) as state:
        assert state.begun
        assert (state.keys, state.batches, state.saved) == ({"digest": "images/cat.png"}, {"sent": "uuid"}, {"job"})
        assert [post for post, _ in state.unsent()] == ["lost"]
        assert [item["customId"] for _, _, item in state.items()] == ["a", "b"]
        state.note(saved="next")
    with State(tmp_path) as state:
        assert state.saved == {"job", "next"}


def test_two_runs_never_work_in_one_folder(tmp_path: Path) -> None:
    with State(tmp_path), pytest.raises(ReduxqError, match="another reduxq batch works"), State(tmp_path):
        raise AssertionError


def page(*statuses: str, after: str | None) -> Answer:
    items = [{"line": 1, "customId": "x", "recordId": None, "status": status} for status in statuses]
    return Answer(body={"items": items, "nextCursor": after})


def record(status: str, results: str | None = None) -> dict[str, Any]:
    counts = {"total": 20, "failed": 0, "canceled": 0, "succeeded": 20}
    return {"uuid": "b", "status": status, "counts": counts, "resultsUrl": results}


def test_pages_that_are_over_are_not_read_again_though_an_earlier_one_is_open(tmp_path: Path) -> None:
    begun = page("SUCCESS", "PROCESSING", after="1"), page("SUCCESS", "FAILURE", after="2")
    waiting = page("WAITING", after="3")
    with (
        scripted(*begun, waiting, begun[0], waiting) as script,
        Client(script.url, "key", trust_env=False) as client,
        State(tmp_path) as state,
        Teller(as_json=True) as teller,
    ):
        follower = Follower(Batch(client.connection, record("PROCESSING")), Run(client, state, teller))
        for _ in range(2):
            items, follower._over = follower._ready()
    asked = [asked.path.partition("cursor=")[2].partition("&")[0] for asked in script.asked]
    assert asked == ["", "1", "2", "", "2"]
    assert len(items) == 3


def test_a_storage_that_is_away_is_waited_for_and_each_variation_written_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{number}.png" for number in range(20)]
    with (
        scripted(*[Answer(200, b"picture")] * 4, *[refusal(503)] * 16, Answer(200, b"picture")) as storage,
        scripted() as manifest,
        scripted() as service,
        Client(service.url, "key", trust_env=False, attempts=1) as client,
        State(tmp_path) as state,
        Teller(as_json=True) as teller,
    ):
        state.note(post="p", manifest="\n".join(json.dumps(line) for line in ({}, *({"customId": n} for n in names))))
        state.note(post="p", batch="b")
        done = {"status": "SUCCESS", "error": None, "urls": [f"{storage.url}/a.webp"]}
        results = [{"line": n, "customId": name, "recordId": name, **done} for n, name in enumerate(names)]
        manifest.answers.append(Answer(200, "\n".join(map(json.dumps, results)).encode()))
        ended = record("SUCCESS", f"{manifest.url}/b.jsonl")
        service.answers.append(Answer(body={"batch": ended}))
        Follower(Batch(client.connection, ended), Run(client, state, teller)).follow()
        assert state.over == {"b"}
        wait_until(lambda: not any("labour" in thread.name for thread in threading.enumerate()))
    told = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(told) == sorted(names)
    assert len(storage.asked) == 20 + 16
    assert len([fact for fact in (tmp_path / FILE).read_text().splitlines() if "saved" in fact]) == 20
