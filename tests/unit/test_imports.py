import subprocess
import sys

import pytest

HEAVY = {"torch", "diffusers", "transformers"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("api.server", HEAVY | {"worker", "celery"}),
        ("api.dispatcher", HEAVY | {"worker", "fastapi"}),
        ("worker.app", HEAVY | {"api", "fastapi"}),
        ("worker.runner", HEAVY | {"api", "celery"}),
        ("shared.job_store", HEAVY | {"api", "worker", "celery", "boto3"}),
        ("reduxq.operating.main", HEAVY | {"api", "worker"}),
    ],
)
def test_a_fresh_interpreter_loads_only_what_the_module_may_use(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not absent & set(loaded)
