"""Waking workers by name. The web side knows no task function, only the broker."""

import logging
from uuid import UUID

import kombu.exceptions
import redis.exceptions
from celery import Celery
from django.conf import settings

logger = logging.getLogger(__name__)

# Longer than the longest step (an image build), or Redis would hand a running job's message out a second time.
VISIBILITY_TIMEOUT_S = 3 * 3600

BROKER_OPTIONS = {
    "visibility_timeout": VISIBILITY_TIMEOUT_S,
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "global_keyprefix": "casement.",
}

# A person waits for this send, so it is tried once; the clock repeats it.
_SEND_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}

_AWAY = (kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError)

_app = Celery("portal", broker=settings.CELERY_BROKER_URL, set_as_current=False)
_app.conf.update(
    broker_transport_options=BROKER_OPTIONS | _SEND_ONCE, task_ignore_result=True, broker_connection_retry=False
)


def wake(name: str, row_id: UUID, *, queue: str, countdown_s: float = 0) -> None:
    """Send a worker the id of what to work on. A message that cannot be sent is no loss: the clock sends it again."""
    if settings.TESTING and not getattr(settings, "BUS_IN_TESTS", False):
        return
    try:
        _app.send_task(name, args=[str(row_id)], queue=queue, countdown=countdown_s or None, retry=False)
    except _AWAY as error:
        logger.warning("%s %s not sent, it will be sent again by the clock: %s", name, row_id, error)


def ask(name: str, target_id: UUID, *, queue: str, expires_s: float) -> None:
    """Ask a worker for something that is of use only now, and that whoever wants it will ask for again."""
    if settings.TESTING and not getattr(settings, "BUS_IN_TESTS", False):
        return
    try:
        _app.send_task(name, args=[str(target_id)], queue=queue, expires=expires_s, retry=False)
    except _AWAY as error:
        logger.warning("%s of %s was not asked for: %s", name, target_id, error)
