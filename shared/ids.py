"""Identifiers, one type each, so that mypy keeps them apart."""

from typing import NewType

JobId = NewType("JobId", str)  #: uuid4; also the Celery task's id
TeamId = NewType("TeamId", str)  #: uuid4
UserId = NewType("UserId", str)  #: uuid4
BatchId = NewType("BatchId", str)  #: uuid4
KeyId = NewType("KeyId", str)  #: the middle of ``rq_<id>_<secret>``
AssetKey = NewType("AssetKey", str)  #: object key in the bucket, the prefix included
