"""What a new portal starts with: sizes to choose from, and a project to work in."""

import os
import shutil
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from portal.accounts.models import Membership, Project, User
from portal.accounts.permissions import Role
from portal.audit import services as audit
from portal.machines.models import Flavour

# Name, title, vCPUs, MiB, GiB. The smallest holds every server image, the second every desktop.
FLAVOURS = [
    ("micro", "Micro", 1, 512, 5),
    ("small", "Small", 1, 1024, 10),
    ("medium", "Medium", 2, 2048, 20),
    ("large", "Large", 4, 4096, 40),
]
VCPUS_PER_CPU = 4
MEMORY_KEPT_MIB = 1024
DISK_OVERCOMMIT = 2


class Command(BaseCommand):
    help = "Make the first sizes, and the project Default for the administrator. What is there already stays as it is."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--pool-dir", type=Path, default=Path("/"), help="the folder for disks: its room is the project's"
        )

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        # Only into an empty table: what an administrator deleted must not come back with the next start.
        if not Flavour.objects.exists():
            _make_flavours()
        if not Project.objects.exists():
            project = _make_project(Path(options["pool_dir"]))
            if options["verbosity"]:
                self.stdout.write(f'Made the project "{project.name}".')


def _make_flavours() -> None:
    for position, (name, title, vcpus, memory_mib, disk_gib) in enumerate(FLAVOURS):
        Flavour.objects.create(
            name=name, title=title, vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib, position=position
        )


def _make_project(pool_dir: Path) -> Project:
    """Its quota is what this machine can promise by the defaults of `portal.hosts`, so it is no obstacle at first."""
    folder = next(path for path in (pool_dir, *pool_dir.parents) if path.exists())
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2
    project = Project.objects.create(
        name="Default",
        max_machines=50,
        max_vcpus=(os.cpu_count() or 1) * VCPUS_PER_CPU,
        max_memory_mib=max(memory_mib - MEMORY_KEPT_MIB, 1024),
        max_disk_gib=shutil.disk_usage(folder).total // 1024**3 * DISK_OVERCOMMIT,
    )
    audit.record(None, "project.created", project, project=project)
    admin = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
    if admin is not None:
        Membership.objects.create(user=admin, project=project, role=Role.OWNER)
    return project
