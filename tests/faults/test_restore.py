"""Back-up and restore as docs/operations.md has them, of a town at work whose servers are then lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.connections import run
from shared.ids import JobId
from shared.jobs import JobStatus
from shared.keys import create_key, list_keys
from tests import servers
from tests.faults.tally import stored_jobs
from tests.faults.town import Town
from tests.ground import Ground
from tests.samples import encoded, picture
from tests.servers import ROOT, wait_until
from tests.stack import result, upload
from tests.yard import STORE

MOST = 40  #: jobs that are accepted while the back-up is taken

#: What the scripts need of ``valkey-cli``, which no package brings that the tests could install.
CLI = f"""#!{sys.executable}
import os, sys, redis
client = redis.Redis.from_url(os.environ["VALKEY_URL"])
client.response_callbacks.clear()
command = [word for word in sys.argv[1:] if word != "-e"]
try:
    answer = client.execute_command(*command)
except redis.ResponseError as error:
    if "-e" in sys.argv:
        sys.exit(str(error))
    answer = str(error)
print(answer.decode() if isinstance(answer, bytes) else answer)
"""


class Backup:
    """A folder with what the operator's commands wrote into it."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._folder = ground.folder / "backup"
        self._data = str(ground.folder / "valkey")
        programs = ground.folder / "programs"
        programs.mkdir()
        (programs / "valkey-cli").write_text(CLI)
        (programs / "valkey-cli").chmod(0o755)
        bucket = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": str(ground.storage.endpoint),
            "ACCESS_KEY_ID": servers.ACCESS_KEY,
            "SECRET_ACCESS_KEY": servers.SECRET_KEY,
        }
        self._environment = {f"RCLONE_CONFIG_OURS_{name}": value for name, value in bucket.items()}
        self._environment |= {"VALKEY_URL": ground.url, "RCLONE_CONFIG": str(programs / "rclone.conf")}
        self._environment["PATH"] = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def take(self) -> None:
        """Copy the records and then the bucket."""
        self._folder.mkdir()
        with (self._folder / "records.tar").open("wb") as copy:
            self._run("copy-records.sh", stdout=copy)
        self._call("rclone", "sync", "ours:tests", str(self._folder / "bucket"))

    def restore(self) -> None:
        """Put the bucket and then the records into new servers, and start Valkey again to read them."""
        self._call("rclone", "sync", str(self._folder / "bucket"), "ours:tests")
        self.restore_records((self._folder / "records.tar").read_bytes())
        self._ground.stop(servers.valkey)
        self._ground.serve(servers.valkey)

    def restore_records(self, copy: bytes) -> None:
        self._run("restore-records.sh", input=copy)

    def _run(self, script: str, **pipes: Any) -> None:
        self._call("sh", "-c", (ROOT / "ops" / script).read_text(), "-", self._data, **pipes)

    def _call(self, *command: str, **pipes: Any) -> None:
        subprocess.run(command, env=self._environment, check=True, timeout=60, **pipes)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """A town of its own, for it loses everything."""
    with ExitStack() as living:
        town = Town(tmp_path, living, workers=1, pace=0.005)
        yield town
        town.crew.end()


def make_busy(town: Town, client: httpx.Client) -> dict[JobStatus, JobId]:
    """Have a job that succeeded, one that failed, one that runs but stands still, some that wait and one canceled."""
    missing = upload(client, encoded(picture(), "PNG"))["key"]
    town.objects.delete(missing)
    jobs = {JobStatus.SUCCEEDED: town.submit(), JobStatus.FAILED: town.submit(imageUrl=missing)}
    for status, job_id in jobs.items():
        assert town.ended(job_id).status is status
    town.halts.ask("denoising")
    jobs[JobStatus.RUNNING] = town.submit()
    town.halted("denoising")
    for _ in range(12):  # more than the worker takes besides
        jobs[JobStatus.QUEUED] = town.submit()
    jobs[JobStatus.CANCELED] = town.submit()
    town.cancel(jobs[JobStatus.CANCELED])
    return jobs


def take_at_work(backup: Backup, town: Town) -> list[JobId]:
    """Take the back-up while jobs are accepted, and return those."""
    meanwhile: list[JobId] = []
    with ThreadPoolExecutor() as pool:
        copying = pool.submit(backup.take)
        while len(meanwhile) < MOST and not copying.done():
            meanwhile.append(town.submit())
        copying.result()
    return meanwhile


def lose_everything(town: Town) -> None:
    """Lose all that is stored, and start everything anew."""
    town.crew.end()
    wait_until(lambda: all(part.poll() is not None for part in town.crew.parts.values()))
    town.halts.release()
    for server in (servers.valkey, servers.s3):
        town.stop(server)
        shutil.rmtree(town.folder / server.__name__)
        town.serve(server)
    town.crew.revive()
    wait_until(lambda: town.warm() and town.answers(), 60)


def bytes_of(client: httpx.Client, job_id: JobId) -> bytes:
    return httpx.get(result(client, job_id)["temporaryUrl"]).raise_for_status().content


@pytest.mark.timeout(180)
def test_what_was_backed_up_at_work_is_finished_once_on_new_servers(town: Town) -> None:
    backup = Backup(town)
    with town.client() as client:
        jobs = make_busy(town, client)
        made = bytes_of(client, jobs[JobStatus.SUCCEEDED])
        meanwhile = take_at_work(backup, town)
        late = town.submit("late")
        lose_everything(town)
        assert client.get(f"/api/results/{late}").status_code == httpx.codes.UNAUTHORIZED
        restored_at = datetime.now(UTC)
        backup.restore()
        wait_until(lambda: town.warm() and town.answers(), 60)
        assert bytes_of(client, jobs[JobStatus.SUCCEEDED]) == made
        assert client.get(f"/api/results/{late}").json() == {"aiRecord": None}
        assert town.submit("late") != late
    there = {job.id for job in stored_jobs(town.records, STORE)}
    assert [job_id in there for job_id in meanwhile] == sorted((job_id in there for job_id in meanwhile), reverse=True)
    town.accepted = [job_id for job_id in town.accepted if job_id in there or job_id not in {late, *meanwhile}]
    for job_id in town.accepted:
        town.ended(job_id, 60)
    assert town.tally().broken == {}
    ends = {was: town.stored(job_id) for was, job_id in jobs.items()}
    assert {was: (job.status, job.attempt) for was, job in ends.items()} == {
        JobStatus.SUCCEEDED: (JobStatus.SUCCEEDED, 1),
        JobStatus.FAILED: (JobStatus.FAILED, 1),
        JobStatus.CANCELED: (JobStatus.CANCELED, 0),
        JobStatus.RUNNING: (JobStatus.SUCCEEDED, 2),
        JobStatus.QUEUED: (JobStatus.SUCCEEDED, 1),
    }
    again = {was for was, job in ends.items() if job.finished_at and job.finished_at > restored_at}
    assert again == {JobStatus.RUNNING, JobStatus.QUEUED}


def test_a_copy_is_not_put_in_place_of_records(tmp_path: Path) -> None:
    with ExitStack() as living:
        ground = Ground(tmp_path, living)
        run(ground.records, create_key("lab", "Ada"))
        backup = Backup(ground)
        backup.take()
        with pytest.raises(subprocess.CalledProcessError):
            backup.restore()
        ground.stop(servers.valkey)
        ground.serve(servers.valkey)
        assert [key.team_name for key in run(ground.records, list_keys())] == ["lab"]


def test_a_copy_that_was_cut_off_takes_nothing_away_and_the_whole_one_can_follow(tmp_path: Path) -> None:
    with ExitStack() as living:
        ground = Ground(tmp_path, living)
        backup = Backup(ground)
        backup.take()
        copy = (tmp_path / "backup" / "records.tar").read_bytes()
        there = sorted(path.name for path in (tmp_path / "valkey" / "appendonlydir").iterdir())
        for cut in (b"", copy[:700]):
            with pytest.raises(subprocess.CalledProcessError):
                backup.restore_records(cut)
            assert sorted(path.name for path in (tmp_path / "valkey" / "appendonlydir").iterdir()) == there
        backup.restore_records(copy)
        ground.stop(servers.valkey)
        ground.serve(servers.valkey)
        assert not run(ground.records, list_keys())


def test_no_copy_is_taken_where_rewrites_cannot_be_kept_off(tmp_path: Path) -> None:
    with ExitStack() as living:
        ground = Ground(tmp_path, living)
        ground.records.execute_command("ACL", "SETUSER", "default", "-config")
        with pytest.raises(subprocess.CalledProcessError):
            Backup(ground).take()
