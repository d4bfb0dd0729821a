"""Killed at any line, on real QEMU: real processes, real SIGKILLs, around every step of every workflow for hosts.

The stage, and the moments. They are played in two modules, since two at a time take hardly longer: most of what a
machine's start and end take is libvirt's firewall, one short command after the other.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import libvirt
import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoDbBlocker
from pytest_django.fixtures import Settings

from portal.accounts.models import Membership, Project, User
from portal.accounts.permissions import Role
from portal.copies.states import Identity
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus, StepName
from portal.machines import services
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status
from tests.integration.crash.conftest import any_recipe, room_for_many
from tests.integration.crash.mortal import work_and_die, work_on
from tests.integration.crash.scenes import SCENES, Scene, Stage
from tests.support.agreement import ON_HOSTS, disagreements
from tests.support.libvirtd import (
    Libvirtd,
    alone,
    foreign_domain_xml,
    run_name,
    running_libvirtd,
    temporary_pool,
    unavailable,
    unique_suffix,
    wait_until,
)
from tests.support.microguest import build_microguest
from tests.support.still_guest import build_still_guest
from workers import reconcile
from workers.hosts import driver_of
from workers.hypervisor import registry
from workers.imaging.facts import ImageFacts
from workers.imaging.inspector import inspect_image
from workers.workflows import WORKFLOWS, images, power
from workers.workflows.base import Step

IMAGES = Path(__file__).parents[3] / "var" / "images-dev"
# Where libvirt keeps a running domain's sockets.
LIVE = Path("/var/lib/libvirt/qemu")
# These happen in the portal's own folders and touch no host.
NOT_ON_HOSTS = {JobName.IMAGE_BUILD, JobName.IMAGE_IMPORT, JobName.IMAGE_FETCH, JobName.ISO_IMPORT}
# Before its system is up, a guest hears no power button, lets no device go and has no agent.
HEARD_INSIDE = {
    JobName.MACHINE_STOP,
    JobName.MACHINE_REBOOT,
    JobName.MACHINE_PASSWORD,
    JobName.MACHINE_SSH_KEY,
    JobName.DISK_ATTACH,  # Of a machine that has many, one goes first.
    JobName.DISK_DETACH,
    JobName.CARD_REMOVE,
}
# What a workflow has in common with these is tried with them.
LIKE: dict[JobName, tuple[JobName, ...]] = {
    JobName.MACHINE_CLONE: (JobName.MACHINE_CREATE,),
    JobName.MACHINE_REBUILD: (JobName.MACHINE_CREATE, JobName.MACHINE_FORCE_OFF),
    JobName.IMAGE_CAPTURE: (JobName.MACHINE_CLONE,),
}


def tried_elsewhere(name: JobName, step: Step[Any]) -> bool:
    return any(step.run is other.run for like in LIKE.get(name, ()) for other in WORKFLOWS[like].steps)


STEPS = [
    (name, scene, step.name)
    for name, played in SCENES.items()
    for scene in played
    for step in scene.steps_of(name)
    if name not in NOT_ON_HOSTS and scene.real
    if not tried_elsewhere(name, step)
]


def moments() -> Iterator[tuple[JobName, Scene, StepName, bool]]:
    """Before a workflow's first step that is tried, and after each: with a step's work done and not yet written down.

    Before a later step there is what is after the one before it, written down. On hosts in memory that is tried too.
    """
    begun = set[tuple[JobName, str]]()
    for name, scene, step in STEPS:
        if (name, scene.name) not in begun:
            begun.add((name, scene.name))
            yield name, scene, step, False
        yield name, scene, step, True


def played(about: Callable[[JobName], bool]) -> list[Any]:
    """The moments of the workflows that it holds for, as parameters of `killed_around`."""
    return [
        pytest.param(
            *moment, id=f"{name}{'-' if scene.name else ''}{scene.name}-{step}-{'after' if after else 'before'}"
        )
        for moment in moments()
        for name, scene, step, after in [moment]
        if about(name)
    ]


def is_of_machines(name: JobName) -> bool:
    return name.startswith("machine.")


@dataclass
class RealStage(Stage):
    """Machines are used again as long as they are whole.

    Only where the guest has a part to play does one boot, which takes seconds; elsewhere the machines' processors halt.
    """

    folder: Path
    booting: ImageVersion
    still: ImageVersion
    identity = Identity.KEPT

    def plays(self, version: ImageVersion) -> None:
        """Machines are of this one from now on."""
        self.version = version

    def work_on(self, job: Job) -> Job:
        return work_on(job)

    def built(self) -> Machine:
        whole = Machine.objects.filter(
            host=self.host,
            status=Status.READY,
            image_version=self.version,
            keeps_definition=False,
            missing_since=None,
            flavour=self.flavour,
            wanted_vcpus=None,
            **services.NOT_IN_RESCUE,
        )
        machine = whole.order_by("-power_state").first() or super().built()
        if machine.power_state != PowerState.RUNNING:
            self.work_on(services.request_start(machine, actor=self.alice))
            machine.refresh_from_db()
        return machine

    def built_anew(self) -> Machine:
        return super().built()

    def at_hand(self) -> Machine:
        return self.built()

    def forget_clones(self) -> None:
        """They are machines like others."""

    def thin_out(self) -> None:
        """One of each kind is enough to go on with."""
        ours = Machine.objects.filter(host=self.host)
        ready = ours.filter(status=Status.READY)
        kept = [ready.filter(image_version=version).first() for version in (self.booting, self.still)]
        over = ready.exclude(pk__in=[machine.pk for machine in kept if machine])
        for machine in [*over, *ours.filter(status=Status.BINNED)]:
            self.work_on(services.request_delete(machine, actor=self.operator))

    def go_on(self, job: Job) -> Job:
        """What happens after a worker died: its lease runs out, another one comes, hosts are compared."""
        Job.objects.filter(lease_until__isnull=False).update(lease_until=timezone.now() - dt.timedelta(seconds=1))
        job.refresh_from_db()
        job = self.work_on(job)
        self.reconcile()
        return job

    def reconcile(self) -> None:
        for host in (self.host, self.other):
            reconcile.reconcile_host(host.pk)


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    if reason := unavailable():
        pytest.skip(reason)
    with running_libvirtd() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def other_uri() -> Iterator[str]:
    """A second libvirt on this machine: that of a user without rights."""
    home = Path(tempfile.mkdtemp(prefix="casement-crash-", dir="/tmp"))
    try:
        shutil.chown(home, "nobody")
        environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        program = shutil.which("libvirtd", path=environment["PATH"])
        assert program is not None
        command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", program]
        with (home / "output").open("w") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=home)
        try:
            socket = home / "libvirt" / "libvirt-sock"
            wait_until(lambda: socket.exists() or process.poll() is not None, 120)
            assert socket.exists(), (home / "output").read_text()
            yield f"qemu+unix:///session?socket={socket}"
        finally:
            process.terminate()
            process.wait(120)
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def stage(
    libvirtd: Libvirtd,
    other_uri: str,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[RealStage]:
    """On a database of its own: rows stay from test to test, as machines do, and other processes see them."""
    folder = tmp_path_factory.mktemp("portal")
    microguest = build_microguest(IMAGES)
    with django_db_blocker.unblock(), pytest.MonkeyPatch.context() as patch:
        connection.close()
        patch.setitem(connection.settings_dict, "NAME", str(folder / "db.sqlite3"))
        call_command("migrate", verbosity=0)
        patch.setattr("django.conf.settings.IMAGES_DIR", folder / "images")
        patch.setattr("django.conf.settings.GUEST_BOOT_TIMEOUT_S", 0)  # Most of it happens while it boots.
        # A busy machine leaves guests little.
        patch.setattr("django.conf.settings.GUEST_SHUTDOWN_TIMEOUT_S", 600)
        patch.setattr(images, "load_recipes", any_recipe)
        patch.setattr(images, "build_image", _copied_from(microguest))
        try:
            with temporary_pool() as pool, temporary_pool() as other_pool:
                stage = _stage((libvirtd.uri, pool), (other_uri, other_pool), folder)
                stage.version.path.parent.mkdir()
                shutil.copy(microguest, stage.booting.path)
                build_still_guest(stage.still.path)
                for version in (stage.booting, stage.still):
                    version.size_bytes = version.path.stat().st_size
                with alone():
                    for host in (stage.host, stage.other):
                        driver_of(host).prepare_host()
                try:
                    yield stage
                finally:
                    _clean(stage)
        finally:
            registry.close_all()
            connection.close()


def _stage(first: tuple[str, Path], second: tuple[str, Path], folder: Path) -> RealStage:
    project = Project.objects.create(name="Lighthouse", bin_days=0)
    alice = User.objects.create_user("alice")
    Membership.objects.create(user=alice, project=project, role=Role.OWNER)
    operator = User.objects.create_user("olga", is_staff=True, is_superuser=True)
    image = Image.objects.create(slug="micro", title="Micro", kind=Kind.SERVER, source=Source.UPLOAD, has_agent=False)
    facts = {"size_bytes": 1, "virtual_size_bytes": 128 << 20, "sha256": "0" * 64}
    booting, still = (
        ImageVersion.objects.create(image=image, number=number, status=VersionStatus.READY, **facts)
        for number in (1, 2)
    )
    flavour = Flavour.objects.create(name="tiny", title="Tiny", vcpus=1, memory_mib=256, disk_gib=1)
    host = _host("local", *first)
    other = _host("other", *second, enabled=False)
    room_for_many(project)
    conn = libvirt.open(first[0])

    def add_foreign() -> UUID:
        uuid = uuid4()
        conn.defineXML(foreign_domain_xml(run_name(f"-foreign{unique_suffix()}"), str(uuid)))
        return uuid

    def remove_domain(uuid: UUID) -> None:
        conn.lookupByUUIDString(str(uuid)).undefine()

    who, where = (project, alice, operator, flavour, booting), (host, other, add_foreign, remove_domain)
    return RealStage(*who, *where, folder, booting, still)


def _host(name: str, uri: str, pool: Path, **values: Any) -> Host:
    return Host.objects.create(
        name=name,
        uri=uri,
        pool_dir=str(pool),
        network=run_name(),
        network_mode="nat",
        accelerator="tcg",
        last_seen_at=timezone.now(),
        cpus=1,
        memory_mib=4096,
        storage_total_bytes=64 << 30,
        storage_free_bytes=64 << 30,
        vcpu_overcommit=1000,
        memory_overcommit=1000,
        **values,
    )


def _copied_from(microguest: Path) -> Callable[..., ImageFacts]:
    def build(_recipe: object, destination: Path, *, scratch: Path, progress: Callable[[int, str], None]) -> ImageFacts:
        scratch.mkdir()
        shutil.copy(microguest, scratch / "disk")
        (scratch / "disk").rename(destination)
        scratch.rmdir()
        return inspect_image(destination)

    return build


def _clean(stage: RealStage) -> None:
    for host in (stage.host, stage.other):
        driver = driver_of(host)
        for uuid in Machine.objects.values_list("pk", flat=True):
            driver.undefine(uuid)
            driver.delete_storage(uuid)


@pytest.fixture(autouse=True)
def own_folders(stage: RealStage, settings: Settings) -> None:
    """The same for all tests here, since what was built stays."""
    settings.IMAGES_DIR, settings.UPLOADS_DIR = stage.folder / "images", stage.folder / "uploads"
    settings.ISOS_DIR = stage.folder / "isos"


@pytest.fixture(autouse=True)
def watched_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """This guest is off within seconds of being asked, on a busy machine within some more. They count from when the
    worker asked that died.
    """
    monkeypatch.setattr(power, "WATCHED_S", 45)


def wrong() -> list[str]:
    """What does not agree, and what is left on the host of machines that are no more."""
    known = {str(pk): status for pk, status in Machine.objects.values_list("pk", "status")}
    # Other portals may have machines on this libvirt; they are no more ours than anyone's.
    ours = [text for text in disagreements() if "belongs to nobody" not in text or text.split()[0] in known]
    gone = [uuid for uuid, status in known.items() if status not in ON_HOSTS]
    return [*ours, *(text for uuid in gone for text in _left_of(uuid))]


def _left_of(uuid: str) -> Iterator[str]:
    conn = libvirt.open("qemu:///system")
    try:
        yield from (f"{uuid}: QEMU {pid} runs" for pid in qemus(uuid))
        yield from (f"{uuid}: {path} is left" for path in LIVE.glob(f"*casement-{uuid[:8]}*"))
        for binding in conn.listAllNWFilterBindings():
            with contextlib.suppress(libvirt.libvirtError):  # Another machine's, which has gone since.
                if uuid in binding.XMLDesc():
                    yield f"{uuid}: a filter on {binding.portDev()} is left"
        if "<host " in conn.networkLookupByName(run_name()).XMLDesc():
            yield "an address is kept for a machine"
    finally:
        conn.close()


def qemus(uuid: str) -> list[int]:
    """Process ids. A QEMU's arguments hold its machine's UUID."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        if command.split("\0")[0].endswith("qemu-system-x86_64") and uuid in command:
            found.append(int(process.name))
    return found


def killed_around(stage: RealStage, name: JobName, scene: Scene, step: StepName, *, after: bool) -> None:
    """The work is done all the same."""
    stage.plays(stage.booting if name in HEARD_INSIDE else stage.still)
    job = scene.ask(stage)
    if name in HEARD_INSIDE:
        wait_until(lambda: driver_of(stage.host).agent_ready(job.target_id), 300)
    work_and_die(job, step, after=after, seconds=600)
    job = stage.go_on(job)
    assert job.status == JobStatus.DONE, job.error_message
    assert scene.done(stage, job)
    assert wrong() == []
    stage.thin_out()
