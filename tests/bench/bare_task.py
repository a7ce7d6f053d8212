"""The peer of :mod:`tests.bench.overhead`: a Celery task that reads the source from S3 and writes one result to it.

``celery -A tests.bench.bare_task worker``; the environment is that of the other processes.
"""

from uuid import uuid4

from celery import Celery

from shared.ids import AssetKey
from shared.object_store import ObjectStore
from shared.settings import load_settings
from tests.samples import encoded, picture

settings = load_settings()
url = settings.broker.url.get_secret_value()
app = Celery(broker=url, backend=url)
app.conf.worker_prefetch_multiplier = 1
objects = ObjectStore(settings.storage)
result = encoded(picture(512, 512), "WEBP")


@app.task(name="bare", acks_late=True)
def bare(source: str) -> str:
    objects.get(AssetKey(source))
    key = AssetKey(f"images/{uuid4()}.webp")
    objects.put(key, result, "image/webp")
    return key
