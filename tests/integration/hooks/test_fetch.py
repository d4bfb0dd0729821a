"""An image by URL, fetched by a worker that is really killed in the middle, and by the next one that goes on."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import signal
import threading

import pytest
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images import services
from portal.images.models import ImageVersion, Kind, VersionStatus
from portal.jobs.models import Job
from portal.jobs.services import send_again
from tests.integration.hooks.conftest import ADDRESS, StartWorker
from tests.support.outside import Asked, Handler, Outside, wait_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

DISK = b"\0" * 510 + b"\x55\xaa" + os.urandom(512) + b"\0" * (4 * 1024**2)
HALF = len(DISK) // 2


def test_a_worker_that_is_killed_in_the_middle_of_a_fetch_is_followed_by_one_that_goes_on(
    outside: Outside, worker: StartWorker, project: Project, alice: User, host: Host
) -> None:
    half_is_there, let_go = threading.Event(), threading.Event()

    def respond(handler: Handler, asked: Asked) -> None:
        if "range" in asked.headers:
            begin = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
            handler.answer(206, DISK[begin:], Content_Range=f"bytes {begin}-{len(DISK) - 1}/{len(DISK)}")
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DISK)))
        handler.end_headers()
        handler.wfile.write(DISK[:HALF])
        half_is_there.set()
        let_go.wait(240)

    server = outside.serve(respond, name=ADDRESS, address=ADDRESS)
    with worker("fetches", 1, "--pool", "solo") as first:
        version = services.add_from_url(
            actor=alice,
            title="From outside",
            kind=Kind.SERVER,
            url=f"https://{ADDRESS}:{server.port}/disk.img",
            checksum=hashlib.sha256(DISK).hexdigest(),
            project=project,
        )
        assert half_is_there.wait(120)
        wait_for(lambda: version.part_path.is_file() and version.part_path.stat().st_size > 0, what="the first part")
        first.send_signal(signal.SIGKILL)
        first.wait(60)
    let_go.set()
    kept = version.part_path.stat().st_size
    assert 0 < kept <= HALF
    Job.objects.update(lease_until=timezone.now() - dt.timedelta(seconds=1))
    with worker("fetches", 1, "--pool", "solo"):
        assert send_again() == 1
        wait_for(lambda: not Job.objects.get().is_active, seconds=180, what="the end of the job")
    version = ImageVersion.objects.get()
    assert version.status == VersionStatus.READY, version.error
    assert version.upload_sha256 == hashlib.sha256(DISK).hexdigest()
    assert [asked.headers.get("range") for asked in server.asked] == [None, f"bytes={kept}-"]
    assert list(version.part_path.parent.glob("*")) == []
