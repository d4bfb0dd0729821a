"""The containers' health checks: `web` answers HTTP; `worker` answers a ping of its own node."""

import http.client
import os
import socket
import subprocess
import sys
from urllib.parse import urlsplit


def web() -> bool:
    url = urlsplit(os.environ.get("CASEMENT_URL", "http://localhost:8000"))
    connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=4)
    connection.request("GET", f"{url.path}/", headers={"Host": url.netloc})
    return connection.getresponse().status < 500


def worker() -> bool:
    node = f"{os.environ.get('WORKER_NAME', 'worker')}@{socket.gethostname()}"
    argv = ["celery", "-A", "workers.celery:app", "inspect", "ping", "-d", node, "-t", "10"]
    return subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(0 if {"web": web, "worker": worker}[sys.argv[1]]() else 1)
