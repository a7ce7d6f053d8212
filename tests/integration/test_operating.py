"""What an operator does about jobs on a running stack."""

import json
import subprocess
import sys

import httpx

from shared.ids import AssetKey
from shared.job_index import COMPLETIONS
from tests.samples import encoded, picture
from tests.stack import Stack, feature, upload, wait_for


def reduxq(stack: Stack, *arguments: str) -> str:
    command = [sys.executable, "-m", "reduxq", "jobs", *arguments, "--data", str(stack.folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def completions(stack: Stack, uuid: str) -> list[str]:
    with stack.records() as records:
        return [fields["status"] for _, fields in records.xrange(COMPLETIONS) if fields["id"] == uuid]


def test_a_job_that_failed_succeeds_when_its_cause_is_gone_and_it_is_tried_again(
    stack: Stack, client: httpx.Client
) -> None:
    image = encoded(picture(), "PNG")
    key = AssetKey(upload(client, image)["key"])
    stack.objects().delete(key)
    uuid = feature(client, key)["uuid"]
    assert wait_for(client, uuid)["status"] == "FAILURE"
    (line,) = reduxq(stack, "list", "--status", "failed", "--limit", "1", "--json").splitlines()
    listed = json.loads(line)
    assert (listed["id"], listed["failure"]["code"], listed["charged"]) == (uuid, "SOURCE_UNUSABLE", 0)
    stack.objects().put(key, image, "image/png")
    assert reduxq(stack, "retry", uuid) == f"{uuid} queued\n"
    assert wait_for(client, uuid)["status"] == "SUCCESS"
    shown = json.loads(reduxq(stack, "show", uuid, "--json"))
    assert (shown["status"], shown["attempt"], shown["failure"]) == ("succeeded", listed["attempt"] + 1, None)
    assert shown["charged"] == shown["price"] > 0
    assert completions(stack, uuid) == ["failed", "succeeded"]
    assert stack.objects().get(shown["variations"][0]["key"])
