"""A process of the portal with the settings of a real one, told what to do by lines on its standard input.

`launch` asks for a machine and says its id; `states` tells how machines and jobs stand. The host is in the memory of
the worker's process, so only the worker can look at it.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any
from uuid import uuid4

import django

django.setup()

from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.jobs.models import Job
from portal.machines import services
from portal.machines.models import Flavour, Machine
from tests.integration.faults import clock

MANY = 100_000


def prepare() -> None:
    call_command("migrate", verbosity=0)
    User.objects.create_user("olga", is_staff=True)
    Project.objects.create(
        name="Lighthouse", max_machines=MANY, max_vcpus=MANY, max_memory_mib=MANY * 1024, max_disk_gib=MANY
    )
    Host.objects.create(
        name="local",
        uri="fake://faults",
        pool_dir="/nowhere",
        cpus=MANY,
        memory_mib=MANY * 1024,
        storage_total_bytes=MANY << 30,
        storage_free_bytes=MANY << 30,
        network_mode="nat",
        last_seen_at=timezone.now(),
    )
    image = Image.objects.create(slug="debian", title="Debian", kind=Kind.SERVER, source=Source.UPLOAD)
    version = ImageVersion.objects.create(
        image=image, number=1, status=VersionStatus.READY, size_bytes=1, virtual_size_bytes=1 << 30
    )
    version.path.parent.mkdir(parents=True, exist_ok=True)
    version.path.write_bytes(b"QFI\xfb" + struct.pack(">IQIIQ", 3, 0, 0, 16, 1 << 30) + b"\0" * 64)
    Flavour.objects.create(name="small", title="Small", vcpus=1, memory_mib=512, disk_gib=2)


def launch() -> str:
    machine = services.request_machine(
        Project.objects.get(),
        actor=User.objects.get(),
        image_version=ImageVersion.objects.get(),
        flavour=Flavour.objects.get(),
        name=f"server-{uuid4().hex[:8]}",
        login_user="alice",
    )
    return str(machine.pk)


def states() -> dict[str, Any]:
    host = Host.objects.get()
    return {
        "machines": list(Machine.objects.values_list("status", "task", "power_state")),
        "jobs": list(Job.objects.values_list("status", "error_message")),
        "retries": sum(Job.objects.values_list("retries", flat=True)),
        "reserved": host.reserved_vcpus,
        "seen": host.last_seen_at.isoformat() if host.last_seen_at else "",
        "now": timezone.now().isoformat(),
    }


COMMANDS = {"prepare": prepare, "launch": launch, "states": states}


def main() -> None:
    clock.follow()
    for line in sys.stdin:
        try:
            answer = {"answer": COMMANDS[line.strip()]()}
        except Exception as error:  # noqa: BLE001 - the test on the other end hears of whatever went wrong.
            answer = {"error": f"{type(error).__name__}: {error}"}
        finally:
            connection.close()
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer is read from there.


if __name__ == "__main__":
    main()
