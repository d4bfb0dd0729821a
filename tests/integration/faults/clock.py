"""A clock that a test sets back: what this process takes for the time of day is off by the seconds in a file.

The steady clock goes on as it does on a machine whose clock is set. Redis and the database keep the true time, as they
would on machines of their own.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from pathlib import Path

import time_machine

LOOK_EVERY_S = 0.2


def follow() -> None:
    """Go by the file that FAULTS_CLOCK names, if it does, for as long as the process lives."""
    if path := os.environ.get("FAULTS_CLOCK"):
        clock = _Clock(Path(path))
        clock.look()
        threading.Thread(target=clock.run, daemon=True).start()


class _Clock:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 0.0
        self.travel: time_machine.travel | None = None

    def run(self) -> None:
        while not threading.Event().wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        seconds = float(self.path.read_text() or self.seconds)
        if seconds == self.seconds:
            return
        if self.travel is not None:
            self.travel.stop()
        self.travel = time_machine.travel(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds), tick=True)
        self.travel.start()
        self.seconds = seconds
