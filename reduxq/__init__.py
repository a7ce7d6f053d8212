"""Image variations from a reduxq service.

``Client`` is where everything begins; :mod:`reduxq.errors` shows what can go wrong.
"""

from reduxq import errors
from reduxq.batches import Batch
from reduxq.client import Client
from reduxq.connection import Event
from reduxq.errors import ReduxqError
from reduxq.job import Job

__all__ = ["Batch", "Client", "Event", "Job", "ReduxqError", "errors"]
