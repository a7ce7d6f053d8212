"""The peer: the same work as a plain Celery task, with the settings that Celery has for reliability.

``celery -A tests.chaos.plain worker``; the environment is that of the other processes.
"""

import time
from io import BytesIO

import redis
from celery import Celery, Task
from PIL import Image

from shared.ids import AssetKey
from shared.object_store import ObjectStore
from shared.settings import load_settings
from tests.chaos import PUBLISHED, SOURCE

SECONDS = 0.008  #: that the model takes for a job, as that of the other side
VISIBILITY = 10  #: seconds until a message that nobody acknowledged is delivered again

settings = load_settings()
app = Celery(broker=settings.broker.url.get_secret_value())
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": VISIBILITY, "socket_timeout": 5, "socket_keepalive": True},
)
objects = ObjectStore(settings.storage)
records = redis.Redis.from_url(settings.records.url.get_secret_value(), socket_timeout=5)


@app.task(name="vary", bind=True, autoretry_for=(Exception,), max_retries=None, default_retry_delay=1)
def vary(_: "Task[[str], None]", job_id: str) -> None:
    """Read the source, make one picture, store it, and say so."""
    objects.get(SOURCE)
    time.sleep(SECONDS)
    file = BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    objects.put(AssetKey(f"images/{job_id}.png"), file.getvalue(), "image/png")
    records.rpush(PUBLISHED, job_id)
