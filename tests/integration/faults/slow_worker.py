"""The worker's Celery app, on a host in memory whose calls take as long as FAULTS_DELAYS says (JSON, seconds)."""

import json
import os

from workers.celery import app
from workers.hypervisor.fake import fake_host

for _operation, _seconds in json.loads(os.environ.get("FAULTS_DELAYS", "{}")).items():
    fake_host("faults").delay(_operation, _seconds)

__all__ = ["app"]
