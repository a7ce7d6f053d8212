"""What the API tells Prometheus."""

from typing import Final

from prometheus_client import Counter

ANSWERS: Final = Counter("reduxq_api_answers", "Requests that were answered", ["status"])
ACCEPTED: Final = Counter("reduxq_jobs_accepted", "Jobs that this process accepted")
