import os
import re
import socket
from pathlib import Path

import pytest

from reduxq.local.folder import DataFolder, read_stack
from reduxq.local.ports import CANDIDATES, draw_ports, require_free
from shared.errors import Misconfigured


def test_secrets_are_drawn_once_for_each_folder_and_are_private(tmp_path: Path) -> None:
    with DataFolder.locked(tmp_path / "one") as one, DataFolder.locked(tmp_path / "two") as two:
        drawn = one.load()
        assert drawn == one.load()
        assert drawn.redis_password != two.load().redis_password
        assert _mode(one.path) == 0o700
        assert _mode(one.path / "secrets.json") == 0o600


def test_a_saved_key_is_there_the_next_time(tmp_path: Path) -> None:
    with DataFolder.locked(tmp_path) as folder:
        folder.save(folder.load().model_copy(update={"api_key": "rq_x"}))
    with DataFolder.locked(tmp_path) as folder:
        assert folder.load().api_key == "rq_x"


def test_secrets_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{")
    with DataFolder.locked(tmp_path) as folder, pytest.raises(Misconfigured, match=r"secrets\.json"):
        folder.load()


def test_a_folder_in_use_is_refused_with_the_processes_that_use_it(tmp_path: Path) -> None:
    with DataFolder.locked(tmp_path) as folder:
        folder.note_pids({"redis": os.getppid()})
        expected = f"{tmp_path} is in use by the processes supervisor {os.getpid()}, redis {os.getppid()}; "
        with pytest.raises(Misconfigured, match=re.escape(expected)), DataFolder.locked(tmp_path):
            pass
    with DataFolder.locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="cannot write the data folder"), DataFolder.locked(tmp_path / "file" / "x"):
        pass


def test_a_killed_stack_is_no_longer_published(tmp_path: Path) -> None:
    with DataFolder.locked(tmp_path) as folder:
        folder.write_stack({"redis_url": "redis://somewhere"})
        assert _mode(tmp_path / "stack.json") == 0o600
        assert read_stack(tmp_path)["redis_url"] == "redis://somewhere"
    with DataFolder.locked(tmp_path), pytest.raises(Misconfigured, match="no stack runs in"):
        read_stack(tmp_path)


def test_drawn_ports_are_free_and_not_those_of_outgoing_connections() -> None:
    drawn = draw_ports(map(str, range(20)), {})
    assert len(set(drawn.values())) == 20
    assert set(drawn.values()) <= set(CANDIDATES)
    assert all(require_free(port) == port for port in drawn.values())


def test_ports_are_kept_where_they_are_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (free,) = draw_ports(["any"], {}).values()
        drawn = draw_ports(["api", "s3", "redis"], {"api": taken.getsockname()[1], "s3": free, "redis": free})
        assert taken.getsockname()[1] not in drawn.values()
    assert drawn["s3"] == free
    assert len(set(drawn.values())) == 3


def test_a_taken_port_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            require_free(port)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
