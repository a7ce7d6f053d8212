"""Everything breaks, again and again, while jobs come in: this service beside plain Celery."""

from shared.ids import AssetKey

PUBLISHED = "published"  #: the peer's list of job ids, one entry each time that a job's result was published
SOURCE = AssetKey("images/source.png")
