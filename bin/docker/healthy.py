"""The containers' health checks: `web` is alive, `ready` can serve people, `worker` answers a ping of its own node.

The gateway has no page: it is alive when it says so with a 404.
"""

import http.client
import os
import socket
import subprocess
import sys
from urllib.parse import urlsplit


def web() -> bool:
    return _answers("/healthz")


def ready() -> bool:
    return _answers("/readyz")


def _answers(path: str) -> bool:
    prefix = urlsplit(os.environ.get("CASEMENT_URL", "http://localhost:8000")).path.rstrip("/")
    connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=9)
    connection.request("GET", f"{prefix}{path}")
    return connection.getresponse().status == 200


def gateway() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", 8001, timeout=9)
    connection.request("GET", "/")
    return connection.getresponse().status == 404


def worker() -> bool:
    node = f"{os.environ.get('WORKER_NAME', 'worker')}@{socket.gethostname()}"
    argv = ["celery", "-A", "workers.celery:app", "inspect", "ping", "-d", node, "-t", "10"]
    return subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(0 if {"web": web, "ready": ready, "worker": worker, "gateway": gateway}[sys.argv[1]]() else 1)
