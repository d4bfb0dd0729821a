"""The Celery app. The worker's libvirt connections are opened lazily, after the fork; see `workers.hypervisor`."""

import datetime as dt
import os
import time

from celery import Celery
from celery.schedules import schedule

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

import django

django.setup()

from django.conf import settings

from portal.lib.bus import BROKER_OPTIONS
from workers import signs

signs.connect()

_STARTED = dt.datetime.now(dt.UTC)
_STARTED_STEADY = time.monotonic()


def steady_now() -> dt.datetime:
    """The time of day at the start and what has passed since. A clock that is set back must not stop the beat."""
    return _STARTED + dt.timedelta(seconds=time.monotonic() - _STARTED_STEADY)


def every(seconds: float) -> schedule:
    return schedule(dt.timedelta(seconds=seconds), nowfun=steady_now)


app = Celery("workers", broker=settings.CELERY_BROKER_URL, include=["workers.tasks"])
app.conf.update(
    broker_transport_options=BROKER_OPTIONS,
    broker_connection_retry_on_startup=True,
    task_default_queue="default",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    # The clock sends again what a late message would have woken, so nothing waits for tasks to be handed back.
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    timezone="UTC",
    # Nothing of the beat's is worth keeping: everything is due again within a minute of a start.
    beat_scheduler="celery.beat:Scheduler",
    beat_schedule={
        "jobs.send_again": {"task": "jobs.send_again", "schedule": every(5), "options": {"expires": 5}},
        "console.end_lost_sessions": {
            "task": "console.end_lost_sessions",
            "schedule": every(60),
            "options": {"expires": 60},
        },
        "events.wake_due": {"task": "events.wake_due", "schedule": every(5), "options": {"expires": 5}},
        "events.prune": {"task": "events.prune", "schedule": every(3600), "options": {"expires": 3600}},
        "uploads.prune": {"task": "uploads.prune", "schedule": every(3600), "options": {"expires": 3600}},
        "machines.purge_due": {"task": "machines.purge_due", "schedule": every(60), "options": {"expires": 60}},
        "snapshots.keep_schedules": {
            "task": "snapshots.keep_schedules",
            "schedule": every(60),
            "options": {"expires": 60},
        },
        "machines.forget_requests": {
            "task": "machines.forget_requests",
            "schedule": every(3600),
            "options": {"expires": 3600},
        },
        "parents.tend": {"task": "parents.tend", "schedule": every(15), "options": {"expires": 15}},
        "pools.tend": {"task": "pools.tend", "schedule": every(3), "options": {"expires": 3}},
        "pools.keep_times": {"task": "pools.keep_times", "schedule": every(5), "options": {"expires": 5}},
        "pools.look_inside": {"task": "pools.look_inside", "schedule": every(15), "options": {"expires": 15}},
        "pools.check_entitlements": {
            "task": "pools.check_entitlements",
            "schedule": every(30),
            "options": {"expires": 30},
        },
        "hosts.refresh": {"task": "hosts.refresh", "schedule": every(15), "options": {"expires": 15}},
        "figures.sample": {"task": "figures.sample", "schedule": every(10), "options": {"expires": 10}},
        "figures.forget": {"task": "figures.forget", "schedule": every(3600), "options": {"expires": 3600}},
    },
)
