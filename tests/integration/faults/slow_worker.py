"""The Celery app of worker and beat, on a host in memory whose calls take as many seconds as FAULTS_DELAYS says."""

import json
import os

from tests.integration.faults import clock
from workers.celery import app
from workers.hypervisor.fake import fake_host

clock.follow()
for _operation, _seconds in json.loads(os.environ.get("FAULTS_DELAYS", "{}")).items():
    fake_host("faults").delay(_operation, _seconds)

__all__ = ["app"]
