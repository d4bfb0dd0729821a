"""The choices of the page for a new machine: what can be launched, in which size, and what is left of the quota."""

from __future__ import annotations

import re
from dataclasses import dataclass

from django.utils.translation import gettext as _

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.quota import Amount, shortfalls
from portal.accounts.selectors import QuotaLine, projects_for, quota_lines
from portal.images.models import Image, ImageVersion, VersionStatus
from portal.images.selectors import catalogue_for
from portal.jobs.models import Job, JobStep
from portal.jobs.selectors import active_jobs_of, current_step, overall_progress
from portal.lib.units import format_mib
from portal.machines.models import Flavour
from portal.machines.selectors import flavours, last_project_id
from portal.machines.services import suggest_name


@dataclass(frozen=True, slots=True)
class Tile:
    """An image that can be launched, or (without a version) one that is still being made."""

    image: Image
    version: ImageVersion | None
    coming: ImageVersion | None
    job: Job | None
    suggested_name: str

    @property
    def key(self) -> str:
        return str(self.image.pk)

    @property
    def min_disk_gib(self) -> int:
        return -(-self.version.virtual_size_bytes // 1024**3) if self.version else 0

    @property
    def step(self) -> JobStep | None:
        return current_step(self.job) if self.job else None

    @property
    def progress(self) -> int:
        return overall_progress(self.job) if self.job else 0


@dataclass(frozen=True, slots=True)
class Size:
    """A flavour, and why it cannot be had for the chosen image in this project; empty if it can."""

    flavour: Flavour
    reason: str

    @property
    def key(self) -> str:
        return str(self.flavour.pk)


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the quota with what the chosen size would take of it."""

    line: QuotaLine
    key: str
    need: int

    @property
    def most(self) -> int:
        return max(self.line.limit, self.line.used + self.need, 1)

    @property
    def used_share(self) -> float:
        return round(100 * self.line.used / self.most, 2)

    @property
    def need_share(self) -> float:
        return round(100 * self.need / self.most, 2)

    @property
    def left_text(self) -> str:
        left = max(self.line.limit - self.line.used - self.need, 0)
        if self.key == "memory":
            return format_mib(left)
        return format_mib(left * 1024) if self.key == "disk" else str(left)

    @property
    def fits(self) -> bool:
        return self.line.used + self.need <= self.line.limit


def projects_to_launch_in(user: User) -> list[Project]:
    return list(projects_for(user, Permission.MACHINE_CREATE))


def project_to_launch_in(user: User, projects: list[Project], wanted: str | None) -> Project:
    """The one that the address or form names, else the one used last, else the first. `projects` is not empty."""
    key = wanted or str(last_project_id(user))
    return next((project for project in projects if str(project.pk) == key), projects[0])


def tiles_for(user: User, project: Project) -> list[Tile]:
    """The catalogue of the project: what can be launched first, then what is still being made."""
    pairs = catalogue_for(user, project)
    coming = {image.pk: _coming(image) for image, version in pairs if version is None}
    jobs = active_jobs_of("imageversion", [version.pk for version in coming.values() if version])
    names = {kind: suggest_name(project, kind=kind) for kind in {image.kind for image, _version in pairs}}
    tiles = [
        Tile(
            image,
            version,
            coming=(next_one := coming.get(image.pk)),
            job=jobs.get(next_one.pk) if next_one else None,
            suggested_name=names[image.kind],
        )
        for image, version in pairs
    ]
    return sorted(tiles, key=lambda tile: (tile.version is None, tile.image.kind, tile.image.title))


def _coming(image: Image) -> ImageVersion | None:
    return next((version for version in image.versions.all() if version.status == VersionStatus.BUILDING), None)


def sizes_for(project: Project, tile: Tile | None) -> list[Size]:
    return [Size(flavour, _why_not(project, flavour, tile)) for flavour in flavours()]


def _why_not(project: Project, flavour: Flavour, tile: Tile | None) -> str:
    if tile and flavour.memory_mib < tile.image.min_memory_mib:
        return _("Needs at least %(memory)s of memory") % {"memory": format_mib(tile.image.min_memory_mib)}
    if tile and flavour.disk_gib < tile.min_disk_gib:
        return _("Needs a disk of at least %(disk)s GiB") % {"disk": tile.min_disk_gib}
    return _("More than the project's quota has left") if shortfalls(project, flavour.amount) else ""


def bars_for(project: Project, amount: Amount | None) -> list[Bar]:
    needs = (amount.machines, amount.vcpus, amount.memory_mib, amount.disk_gib) if amount else (0, 0, 0, 0)
    keys = ("machines", "vcpus", "memory", "disk")
    return [Bar(line, key, need) for line, key, need in zip(quota_lines(project), keys, needs, strict=True)]


def login_user_for(user: User) -> str:
    """A user name for the guest, made from the portal's: lower-case, and only what Linux takes."""
    name = re.sub(r"[^a-z0-9_-]+", "-", user.get_username().split("@")[0].lower()).strip("-")
    if not re.match(r"[a-z_]", name):
        name = f"u{name}"
    return name[:32] if name not in {"root", "daemon", "nobody", "sshd"} else "me"
