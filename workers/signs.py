"""What follows a worker's life: its signs, for /readyz and /metrics; its children's way to open tabs.

No logging set-up of Celery's, since Django has done it.
"""

import gc
import time
from typing import Any

from celery.signals import heartbeat_sent, setup_logging, worker_process_init, worker_shutdown

from portal.lib import live, pulse


class _Beats:
    """Celery's own heartbeat comes every 2 s; ours follows it, less often."""

    def __init__(self) -> None:
        self.name = ""
        self.next_at = 0.0

    def on_heartbeat(self, sender: Any, **_values: object) -> None:
        if time.monotonic() < self.next_at:
            return
        self.next_at = time.monotonic() + pulse.BEAT_EVERY_S
        eventer = sender.eventer
        self.name = pulse.worker_beat(eventer.hostname, eventer.app.amqp.queues.consume_from)
        pulse.beat(self.name)

    def on_shutdown(self, **_values: object) -> None:
        if self.name:
            pulse.end(self.name)


def _leave_logging(**_values: object) -> None:
    """That there is a receiver is what keeps Celery from setting up levels and handlers of its own."""


def _begin_child(**_values: object) -> None:
    live.keep_loop()
    # As in the web process: what is loaded by now stays for good, and is not looked through again and again.
    gc.collect()
    gc.freeze()


def connect() -> None:
    """For the life of this process."""
    beats = _Beats()
    heartbeat_sent.connect(beats.on_heartbeat, weak=False)
    worker_shutdown.connect(beats.on_shutdown, weak=False)
    worker_process_init.connect(_begin_child, weak=False)
    setup_logging.connect(_leave_logging, weak=False)
