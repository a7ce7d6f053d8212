"""What ``reduxq batch`` decides by itself: which pictures, under which names, and what was done already."""

from pathlib import Path

import pytest

from reduxq.cli.batch import Misuse, collect, stems_of
from reduxq.cli.state import FILE, State
from reduxq.errors import ReduxqError


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
        assert [item["customId"] for _, item in state.items()] == ["a", "b"]
        state.note(saved="next")
    with State(tmp_path) as state:
        assert state.saved == {"job", "next"}


def test_two_runs_never_work_in_one_folder(tmp_path: Path) -> None:
    with State(tmp_path), pytest.raises(ReduxqError, match="another reduxq batch works"), State(tmp_path):
        raise AssertionError
