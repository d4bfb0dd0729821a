"""For every kind of job: how it comes to be asked for, and what is true when it is done or taken back.

The matrix is made of `WORKFLOWS`; a workflow without a scene here fails `test_every_workflow_has_a_scene`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.core.files.uploadedfile import SimpleUploadedFile
from django.db.models import Q

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.copies import capturing, cloning, rebuilding
from portal.copies.capturing import CaptureRequest
from portal.copies.cloning import CloneRequest
from portal.copies.models import DiskBase, DiskCopy
from portal.copies.states import Identity
from portal.hosts.models import Difference, DifferenceKind, Host
from portal.images import services as images
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.isos import services as isos
from portal.isos.models import Iso
from portal.isos.models import Status as IsoStatus
from portal.jobs.models import Job
from portal.jobs.names import JobName, StepName
from portal.lib.secrets import unseal
from portal.machines import (
    access,
    binning,
    cards,
    discs,
    disks,
    drift,
    hibernation,
    installing,
    rescue,
    resizing,
    services,
)
from portal.machines.devices import Plug
from portal.machines.models import Attachment, Disc, Flavour, Machine, NetworkCard
from portal.machines.models import Firmware as MachineFirmware
from portal.machines.states import PowerState, Status, Task
from portal.parents import services as parents
from portal.parents.models import Parent
from portal.parents.states import State as ParentState
from portal.profiles import services as profiles
from portal.profiles.models import Profile
from portal.profiles.states import State
from portal.snapshots import restoring
from portal.snapshots import services as snapshots
from portal.snapshots.models import Snapshot
from portal.snapshots.states import Status as SnapshotStatus
from portal.snapshots.states import Task as SnapshotTask
from portal.uploads import services as uploads
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from portal.volumes.states import Task as VolumeTask
from tests.workers.support import fake_of, work_on
from workers import reconcile
from workers.hosts import driver_of
from workers.hypervisor import cloud_init
from workers.hypervisor.errors import DomainNotFoundError
from workers.hypervisor.types import Firmware, MachineSpec, SeedSpec
from workers.imaging.facts import ImageFacts
from workers.workflows import WORKFLOWS
from workers.workflows.base import Step


@dataclass
class Stage:
    """Where scenes are played: a project with room, an image, one host, and a second one for what belongs elsewhere.

    `add_foreign` defines a domain past the portal and gives its UUID; `remove_domain` removes one so.
    """

    project: Project
    alice: User
    operator: User
    flavour: Flavour
    version: ImageVersion
    host: Host
    other: Host
    add_foreign: Callable[[], UUID]
    remove_domain: Callable[[UUID], None]
    # Of copies. The smallest guests have no system that any tool knows: there nothing is removed from it.
    identity = Identity.NEW

    def asked(self) -> Machine:
        return services.request_machine(
            self.project,
            actor=self.alice,
            image_version=self.version,
            flavour=self.flavour,
            name=f"server-{uuid4().hex[:8]}",
            login_user="alice",
        )

    def work_on(self, job: Job) -> Job:
        """What workers do, until the job has ended."""
        return work_on(job)

    def built(self) -> Machine:
        machine = self.asked()
        job = self.work_on(Job.objects.get(target_id=machine.pk))
        machine.refresh_from_db()
        assert machine.status == Status.READY, job.error_message
        return machine

    def off(self) -> Machine:
        machine = self.built()
        self.work_on(services.request_force_off(machine, actor=self.alice))
        machine.refresh_from_db()
        return machine

    def at_hand(self) -> Machine:
        """A running machine that may have been used before: what is done to disks and cards leaves it whole."""
        idle = Machine.objects.filter(host=self.host, status=Status.READY, task=Task.NONE)
        return idle.filter(power_state=PowerState.RUNNING, keeps_definition=False).first() or self.built()

    def clear(self) -> None:
        """For the next life: what is compared below is then its own alone, and the matrix stays quick."""
        Profile.objects.all().delete()
        Machine.objects.all().delete()
        Parent.objects.all().delete()
        DiskBase.objects.all().delete()
        Volume.objects.all().delete()
        for iso in Iso.objects.all():
            iso.path.unlink(missing_ok=True)
        Iso.objects.all().delete()
        Project.objects.update(used_machines=0, used_vcpus=0, used_memory_mib=0, used_disk_gib=0)
        Host.objects.update(reserved_vcpus=0, reserved_memory_mib=0, reserved_disk_gib=0)
        Difference.objects.all().delete()
        for host in (self.host, self.other):
            fake = fake_of(host)
            for holder in (fake.domains, fake.disks, fake.bases, fake.seeds, fake.volumes, fake.snapshots):
                holder.clear()
            for holder in (fake.isos, fake.rescues):
                holder.clear()
            fake.parents.clear()
            fake.forks.clear()

    def forget_clones(self) -> None:
        """Of earlier scenes, as if there had been none, so that what is compared stays small."""
        for clone in Machine.objects.filter(cloned_from__isnull=False):
            fake = fake_of(clone.host)
            for holder in (fake.domains, fake.disks, fake.bases, fake.seeds, fake.snapshots):
                holder.pop(clone.pk, None)
            services.release_resources(clone)
            clone.delete()

    def parent(self) -> Parent:
        """A running copy that is ready, to be forked from."""
        size = {"vcpus": self.flavour.vcpus, "memory_mib": self.flavour.memory_mib, "disk_gib": self.flavour.disk_gib}
        if not Host.objects.exclude(hypervisor_version="").filter(pk=self.host.pk).exists():
            reconcile.reconcile_host(self.host.pk)  # What it is captured by is known of a host that has reported.
        parent = parents.want(self.version, self.host, **size)
        assert parent is not None
        if parent.state != ParentState.READY:
            job = self.work_on(Job.objects.filter(target_id=parent.pk).latest("created_at"))
            parent.refresh_from_db()
            assert parent.state == ParentState.READY, job.error_message
        return parent

    def forget_forks(self) -> None:
        """Of earlier scenes, as `forget_clones`."""
        for machine in Machine.objects.filter(host=self.host):
            fake = fake_of(machine.host)
            for holder in (fake.domains, fake.disks, fake.bases, fake.seeds, fake.forks):
                holder.pop(machine.pk, None)
            services.release_resources(machine)
            machine.delete()

    def larger(self) -> Flavour:
        """A size with a processor more, which a running machine takes, and more memory, which it does not."""
        size = {"vcpus": self.flavour.vcpus + 1, "memory_mib": self.flavour.memory_mib + 64}
        values = {"title": "Larger", "disk_gib": self.flavour.disk_gib, **size}
        return Flavour.objects.get_or_create(name="larger", defaults=values)[0]

    def difference(self, object_id: UUID, kind: DifferenceKind, host: Host | None = None) -> Difference:
        """As reconciliation finds it."""
        reconcile.reconcile_host((host or self.host).pk)
        return Difference.objects.get(object_id=object_id, kind=kind)


Check = Callable[[Stage, Job], object]


def _nothing(_stage: Stage, _job: Job) -> bool:
    return True


@dataclass(frozen=True)
class Scene:
    """`ask` brings about what the job needs and asks for it. `done` and `back` hold after it ended so.

    What `again` plays on is used for the next life as well. What is not `real` differs from another scene by what the
    rows say only, or does on a host what tests/integration/hypervisor tries on real ones. Of one that is long, and most
    of it another one's, every `stride`-th moment is enough. `passes` are the steps that are not needed in it.
    """

    ask: Callable[[Stage], Job]
    done: Check
    back: Check = field(default=_nothing)
    name: str = ""
    again: bool = False
    real: bool = True
    stride: int = 1
    passes: frozenset[StepName] = frozenset()

    def steps_of(self, name: JobName) -> list[Step[Any]]:
        """Those of the workflow that are played: not what is passed over here."""
        return [step for step in WORKFLOWS[name].steps if step.name not in self.passes]


def _machine(job: Job) -> Machine:
    return Machine.objects.get(pk=job.target_id)


def _is(status: Status, power: PowerState) -> Check:
    return lambda _stage, job: (_machine(job).status, _machine(job).power_state) == (status, power)


def _is_off_and(check: Callable[[Machine], object]) -> Check:
    return lambda stage, job: OFF(stage, job) and bool(check(_machine(job)))


RUNS = _is(Status.READY, PowerState.RUNNING)
OFF = _is(Status.READY, PowerState.SHUT_OFF)


def _is_whole(stage: Stage, job: Job) -> bool:
    """A guest that was asked to shut down cannot be asked not to."""
    return bool(RUNS(stage, job) or OFF(stage, job))


def _create(stage: Stage) -> Job:
    return Job.objects.get(target_id=stage.asked().pk)


def _power(state: Callable[[Stage], Machine], request: Callable[..., Job]) -> Callable[[Stage], Job]:
    return lambda stage: request(state(stage), actor=stage.alice)


def _hibernated(stage: Stage) -> Machine:
    machine = stage.built()
    stage.work_on(hibernation.request_hibernate(machine, actor=stage.alice))
    machine.refresh_from_db()
    assert machine.is_hibernated
    return machine


def _paused(stage: Stage) -> Machine:
    machine = stage.built()
    stage.work_on(services.request_pause(machine, actor=stage.alice))
    machine.refresh_from_db()
    return machine


def _resize(state: Callable[[Stage], Machine]) -> Callable[[Stage], Job]:
    return lambda stage: resizing.request_resize(state(stage), actor=stage.alice, flavour=stage.larger())


def _has_larger_size(stage: Stage, job: Job) -> bool:
    machine, wanted = _machine(job), stage.larger()
    assert (machine.vcpus, driver_of(stage.host).get(machine.pk).vcpus) == (wanted.vcpus, wanted.vcpus)
    if machine.power_state == PowerState.SHUT_OFF:
        return (machine.memory_mib, machine.wanted_memory_mib) == (wanted.memory_mib, None)
    return (machine.memory_mib, machine.wanted_memory_mib) == (stage.flavour.memory_mib, wanted.memory_mib)


def _waits_for_nothing(_stage: Stage, job: Job) -> bool:
    return _machine(job).wanted_vcpus is None


def _new_password(stage: Stage) -> Job:
    machine = stage.built()
    machine.login_user = "alice"
    return access.request_password(machine, actor=stage.alice)


def _password_is_known(stage: Stage, job: Job) -> bool:
    machine = _machine(job)
    return machine.password_changed_at is not None and bool(unseal(machine.login_password))


def _add_key(stage: Stage) -> Job:
    return access.request_ssh_key(stage.built(), actor=stage.alice, public_key=KEY)


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice@laptop"


def _bin(stage: Stage) -> Job:
    Project.objects.filter(pk=stage.project.pk).update(bin_days=7)
    machine = Machine.objects.get(pk=stage.built().pk)
    try:
        return binning.request_removal(machine, actor=stage.alice)
    finally:
        Project.objects.filter(pk=stage.project.pk).update(bin_days=0)


def _is_binned(_stage: Stage, job: Job) -> bool:
    return _machine(job).status == Status.BINNED


def _adopt_foreign(stage: Stage) -> Job:
    difference = stage.difference(stage.add_foreign(), DifferenceKind.FOREIGN)
    return _adopt(stage, difference)


def _adopt_stray(stage: Stage) -> Job:
    """A disk whose row was lost with a database."""
    machine, driver = uuid4(), driver_of(stage.host)
    driver.put_image(stage.version.pk, stage.version.path, progress=lambda _percent: None)
    driver.create_disk(machine, image=stage.version.pk, size_bytes=stage.flavour.disk_gib << 30)
    driver.write_seed(machine, _seed(machine))
    return _adopt(stage, stage.difference(machine, DifferenceKind.STRAY))


def _adopt(stage: Stage, difference: Difference) -> Job:
    machine = drift.request_adoption(
        difference, actor=stage.operator, project=stage.project, name=f"found-{uuid4().hex[:8]}"
    )
    return Job.objects.get(target_id=machine.pk)


def _is_left_alone(stage: Stage, job: Job) -> bool:
    """Not in a project, and as it was on the host: a strange domain without our mark, or a disk."""
    assert not Machine.objects.filter(pk=job.target_id).exists()
    domain = {info.uuid: info for info in driver_of(stage.host).list()}.get(job.target_id)
    disks = {volume.machine for volume in driver_of(stage.host).list_volumes() if volume.is_disk}
    return (domain is not None and not domain.owned) or (domain is None and job.target_id in disks)


def _repair(stage: Stage) -> Job:
    machine = stage.off()
    stage.remove_domain(machine.pk)
    stage.difference(machine.pk, DifferenceKind.MISSING)
    machine.refresh_from_db()
    assert machine.missing_since is not None
    return drift.request_repair(machine, actor=stage.operator)


def _remove_copy(stage: Stage) -> Job:
    machine, other = stage.built(), driver_of(stage.other)
    other.put_image(stage.version.pk, stage.version.path, progress=lambda _percent: None)
    other.create_disk(machine.pk, image=stage.version.pk, size_bytes=stage.flavour.disk_gib << 30)
    other.write_seed(machine.pk, _seed(machine.pk))
    other.define(
        MachineSpec(
            machine.pk, machine.domain_name, machine.name, 1, 128, Firmware.BIOS, machine.genid, uuid4().hex[:8]
        )
    )
    difference = stage.difference(machine.pk, DifferenceKind.ELSEWHERE, stage.other)
    return drift.request_copy_removal(difference, actor=stage.operator)


def _copy_is_gone(stage: Stage, job: Job) -> bool:
    left = {info.uuid for info in driver_of(stage.other).list()}
    left |= {volume.machine for volume in driver_of(stage.other).list_volumes() if volume.machine}
    reconcile.reconcile_host(stage.other.pk)
    copied = Machine.objects.filter(pk__in=left).exclude(host=stage.other).exists()
    return not copied and not Difference.objects.filter(host=stage.other, kind=DifferenceKind.ELSEWHERE).exists()


def _seed(machine: UUID) -> SeedSpec:
    return cloud_init.seed(
        instance_id=machine,
        hostname="lost",
        user="alice",
        password_hash=None,
        ssh_keys=(),
        mac="52:54:00:00:00:99",
        desktop=False,
    )


def _build(stage: Stage) -> Job:
    image = Image.objects.create(
        slug=f"recipe-{uuid4().hex[:8]}", title="By recipe", kind=Kind.SERVER, source=Source.RECIPE, recipe="any"
    )
    return images.request_build(image, actor=stage.operator)


def _import(stage: Stage) -> Job:
    version = images.add_upload(
        SimpleUploadedFile("disk.img", RAW_DISK),
        actor=stage.alice,
        title="Mine",
        kind=Kind.SERVER,
        project=stage.project,
    )
    return Job.objects.get(target_id=version.pk)


DISK_URL = "https://files.example/disk.img"
"""The stage puts the address of a server in its place."""


def _fetch(stage: Stage) -> Job:
    version = images.add_from_url(
        actor=stage.alice,
        title="From outside",
        kind=Kind.SERVER,
        url=DISK_URL,
        checksum=f"{DISK_URL}.sums",
        project=stage.project,
    )
    return Job.objects.get(target_id=version.pk)


def _delete_image(stage: Stage) -> Job:
    job = _build(stage)
    stage.work_on(job)
    version = ImageVersion.objects.get(pk=job.target_id)
    driver_of(stage.host).put_image(version.pk, version.path, progress=lambda _percent: None)
    return images.request_delete_version(version, actor=stage.operator)


def _is_offered(_stage: Stage, job: Job) -> bool:
    return ImageVersion.objects.get(pk=job.target_id).status == VersionStatus.READY


def _is_not_offered(_stage: Stage, job: Job) -> bool:
    return ImageVersion.objects.get(pk=job.target_id).status == VersionStatus.FAILED


def _image_is_gone(stage: Stage, job: Job) -> bool:
    on_hosts = [driver_of(host).has_image(job.target_id) for host in (stage.host, stage.other)]
    return not ImageVersion.objects.filter(pk=job.target_id).exists() and on_hosts == [False, False]


# --- parents and forks ----------------------------------------------------------------------------------------------


def _create_forked(stage: Stage) -> Job:
    stage.forget_forks()
    stage.parent()
    return _create(stage)


def _is_forked(stage: Stage, job: Job) -> bool:
    machine = _machine(job)
    assert machine.made_by == "fork", machine.made_by_reason
    return bool(RUNS(stage, job))


def _delete_forked(stage: Stage) -> Job:
    job = _create_forked(stage)
    stage.work_on(job)
    machine = _machine(job)
    assert machine.parent is not None, machine.made_by_reason
    return services.request_delete(machine, actor=stage.alice)


def _build_parent(stage: Stage) -> Job:
    size = {"vcpus": stage.flavour.vcpus, "memory_mib": stage.flavour.memory_mib, "disk_gib": stage.flavour.disk_gib}
    parent = parents.want(stage.version, stage.host, **size)
    assert parent is not None
    return Job.objects.get(target_id=parent.pk)


def _delete_parent(stage: Stage) -> Job:
    parent = stage.parent()
    parents.retire(parent)
    return Job.objects.get(target_id=parent.pk, name=JobName.PARENT_DELETE)


def _parent_is(state: ParentState) -> Check:
    return lambda _stage, job: Parent.objects.get(pk=job.target_id).state == state


_TO_FORK = frozenset({StepName.FORK, StepName.FORK_IDENTITY})
_TO_BOOT = frozenset(
    [StepName.IMAGE, StepName.DISK, StepName.SEED, StepName.DEFINE, StepName.START, StepName.BOOT],
)

# --- copies of disks ------------------------------------------------------------------------------------------------


def _clone(*, linked: bool, **values: Any) -> Callable[[Stage], Job]:
    def ask(stage: Stage) -> Job:
        stage.forget_clones()
        wanted = CloneRequest(f"clone-{uuid4().hex[:8]}", linked=linked, **{"identity": stage.identity, **values})
        clone = cloning.request_clone(stage.at_hand(), actor=stage.alice, wanted=wanted)
        return Job.objects.get(target_id=clone.pk)

    return ask


def _is_cloned(stage: Stage, job: Job) -> bool:
    """It runs, with a disk that is its own or that reads from a base; and its original is as it was."""
    clone = _machine(job)
    copy = DiskCopy.objects.get(machine=clone)
    disks = {info.machine: info.base for info in driver_of(stage.host).list_volumes() if info.is_disk}
    assert disks[clone.pk] == copy.base_id
    assert (copy.source.task, copy.source.status) == (Task.NONE, Status.READY)
    return bool(RUNS(stage, job))


def _is_not_cloned(stage: Stage, job: Job) -> bool:
    source = DiskCopy.objects.get(machine=job.target_id).source
    return has_failed(stage, job) and (source.task, source.status) == (Task.NONE, Status.READY)


def _capture(stage: Stage) -> Job:
    wanted = CaptureRequest(title="Of a machine", identity=stage.identity)
    version = capturing.request_capture(stage.at_hand(), actor=stage.alice, wanted=wanted)
    return Job.objects.get(target_id=version.pk)


def _rebuild(stage: Stage) -> Job:
    machine = stage.at_hand()
    return rebuilding.request_rebuild(machine, actor=stage.alice, version=stage.version, confirmed=machine.name)


def _is_rebuilt(stage: Stage, job: Job) -> bool:
    return bool(RUNS(stage, job)) and _machine(job).image_version_id == stage.version.pk


RAW_DISK = b"\0" * 510 + b"\x55\xaa" + bytes(range(256)) * 2 + b"\0" * (1024**2 - 1024)


def build_in_a_moment(
    _recipe: object, destination: Path, *, scratch: Path, progress: Callable[[int, str], None]
) -> ImageFacts:
    """In the place of a build of minutes: whole under its name, or not there."""
    scratch.mkdir(exist_ok=True)
    part = scratch / "disk"
    part.write_bytes(b"QFI\xfb" + struct.pack(">IQIIQ", 3, 0, 0, 16, 1 << 30) + b"\0" * 64)
    progress(50, "Packing")
    part.rename(destination)
    scratch.rmdir()
    return ImageFacts("qcow2", virtual_size_bytes=1 << 30, size_bytes=96, sha256="a" * 64)


def is_gone(_stage: Stage, job: Job) -> bool:
    return _machine(job).status == Status.DELETED


def has_failed(_stage: Stage, job: Job) -> bool:
    return _machine(job).status == Status.ERROR


def is_still_missing(stage: Stage, job: Job) -> bool:
    """Neither defined nor given up; the disk is there."""
    machine = _machine(job)
    try:
        driver_of(stage.host).power_state(machine.pk)
    except DomainNotFoundError:
        return machine.missing_since is not None
    return True  # It was defined, and only then something failed: that is no loss.


# --- disks and cards ------------------------------------------------------------------------------------------------


def _volume(stage: Stage) -> Volume:
    """A free one, made beside the stage's machines."""
    volume = volumes.request_volume(
        stage.project, actor=stage.alice, name=f"disk {uuid4().hex[:8]}", size_gib=1, host=stage.host
    )
    stage.work_on(Job.objects.get(target_id=volume.pk))
    volume.refresh_from_db()
    return volume


def _free(stage: Stage) -> Volume:
    free = Volume.objects.filter(host=stage.host, status=VolumeStatus.AVAILABLE, task=VolumeTask.NONE)
    return free.select_related("project", "host").first() or _volume(stage)


def _with_room(stage: Stage) -> Machine:
    """A running machine that has fewer than three volumes."""
    machine = stage.at_hand()
    attached = Attachment.objects.filter(machine=machine, volume__isnull=False)
    if attached.count() >= 3:
        stage.work_on(disks.request_detach(machine, actor=stage.alice, disk=str(attached[0].pk)))
        machine.refresh_from_db()
    return machine


def _attach(stage: Stage) -> Job:
    return disks.request_attach(_with_room(stage), actor=stage.alice, volume=_free(stage))


def _attach_new(stage: Stage) -> Job:
    return disks.request_new_disk(_with_room(stage), actor=stage.alice, name=f"disk {uuid4().hex[:8]}", size_gib=1)


def _attached(stage: Stage) -> Attachment:
    """A running machine that has a volume."""
    machine = stage.at_hand()
    if not Attachment.objects.filter(machine=machine, volume__isnull=False).exists():
        stage.work_on(disks.request_attach(machine, actor=stage.alice, volume=_free(stage)))
    return Attachment.objects.filter(machine=machine, volume__isnull=False).select_related("machine__host")[0]


def _detach(stage: Stage) -> Job:
    attachment = _attached(stage)
    return disks.request_detach(attachment.machine, actor=stage.alice, disk=str(attachment.pk))


def _grow(stage: Stage) -> Job:
    attachment = _attached(stage)
    assert attachment.volume is not None
    size = attachment.volume.size_gib + 1
    return disks.request_grow(attachment.machine, actor=stage.alice, disk=str(attachment.pk), size_gib=size)


def _grow_root(stage: Stage) -> Job:
    machine = stage.at_hand()
    return disks.request_grow(machine, actor=stage.alice, disk=disks.ROOT, size_gib=machine.disk_gib + 1)


def _limit(stage: Stage) -> Job:
    attachment = _attached(stage)
    return disks.request_limits(attachment.machine, actor=stage.alice, disk=str(attachment.pk), iops=500, mib_per_s=50)


def _add_card(stage: Stage) -> Job:
    machine = stage.at_hand()
    cards_of = NetworkCard.objects.filter(machine=machine)
    if cards_of.count() >= cards.MOST_CARDS:
        stage.work_on(cards.request_removal(machine, actor=stage.alice, card=cards_of[0].pk))
        machine.refresh_from_db()
    return cards.request_card(machine, actor=stage.alice)


def _remove_card(stage: Stage) -> Job:
    machine = stage.at_hand()
    if not NetworkCard.objects.filter(machine=machine).exists():
        stage.work_on(cards.request_card(machine, actor=stage.alice))
        machine.refresh_from_db()
    card = NetworkCard.objects.filter(machine=machine)[0]
    return cards.request_removal(machine, actor=stage.alice, card=card.pk)


def _delete_with_volumes(stage: Stage) -> Job:
    """One goes with the machine, the other stays."""
    for earlier in Volume.objects.filter(name__in=("goes", "stays")):
        Volume.objects.filter(pk=earlier.pk).update(name=f"of an earlier scene {uuid4().hex[:8]}")
    machine = stage.built()
    for name in ("goes", "stays"):
        stage.work_on(disks.request_new_disk(machine, actor=stage.alice, name=name, size_gib=1))
        machine.refresh_from_db()
    going = Volume.objects.get(attachment__machine=machine, name="goes")
    return services.request_delete(machine, actor=stage.alice, delete_volumes=[going.pk])


def _one_of_two_is_left() -> bool:
    states = dict(Volume.objects.filter(name__in=("goes", "stays")).values_list("name", "status"))
    return states == {"goes": VolumeStatus.DELETED, "stays": VolumeStatus.AVAILABLE}


def _nothing_is_changing(_stage: Stage, job: Job) -> bool:
    """Whether it was done or not, the machine is free for the next thing, and so are its disks and cards. That the
    host has what the rows say is compared for every scene.
    """
    machine = _machine(job)
    changing = [disks.in_change(machine), cards.in_change(machine)]
    busy = Volume.objects.live().filter(attachment__machine=machine).exclude(task=VolumeTask.NONE).exists()
    return machine.task == Task.NONE and changing == [None, None] and not busy


def _has(jobs_name: JobName) -> Check:
    """The newest row of the audit trail says which device it is; it is there or gone, as was asked."""
    asked = {JobName.DISK_ATTACH: True, JobName.DISK_DETACH: False, JobName.CARD_ADD: True, JobName.CARD_REMOVE: False}

    def check(stage: Stage, job: Job) -> bool:
        detail = Event.objects.filter(target_id=str(job.target_id), action=jobs_name).latest("pk").detail
        rows = (
            Attachment.objects.filter(machine=job.target_id, volume__name=detail["volume"])
            if "volume" in detail
            else NetworkCard.objects.filter(machine=job.target_id, mac=detail["mac"])
        )
        return rows.exists() == asked[jobs_name] and _nothing_is_changing(stage, job)

    return check


def _has_grown(stage: Stage, job: Job) -> bool:
    """Row and host agree on the size: that is compared for every scene. Here: it is the one that was asked for."""
    detail = Event.objects.filter(target_id=str(job.target_id), action=JobName.DISK_GROW).latest("pk").detail
    sizes = {_machine(job).disk_gib}
    sizes |= set(Volume.objects.filter(attachment__machine=job.target_id).values_list("size_gib", flat=True))
    return detail["size_gib"] in sizes and _nothing_is_changing(stage, job)


def _is_limited(stage: Stage, job: Job) -> bool:
    limits = Attachment.objects.filter(machine=job.target_id, iops=500, bytes_per_s=50 * 1024**2)
    return limits.exists() and _nothing_is_changing(stage, job)


def _grow_volume(stage: Stage) -> Job:
    volume = _free(stage)
    return volumes.request_grow(volume, actor=stage.alice, size_gib=volume.size_gib + 1)


def _volume_has_grown(_stage: Stage, job: Job) -> bool:
    """That its file has the row's size is compared for every scene."""
    wanted = Event.objects.filter(target_id=str(job.target_id), action=JobName.VOLUME_GROW).latest("pk").detail
    return bool(_volume_is(VolumeStatus.AVAILABLE, wanted["size_gib"])(_stage, job))


def _volume_is_free(_stage: Stage, job: Job) -> bool:
    volume = Volume.objects.get(pk=job.target_id)
    return (volume.status, volume.task, volume.wanted_gib) == (VolumeStatus.AVAILABLE, VolumeTask.NONE, None)


def _create_volume(stage: Stage) -> Job:
    volume = volumes.request_volume(
        stage.project, actor=stage.alice, name=f"disk {uuid4().hex[:8]}", size_gib=2, host=stage.host
    )
    return Job.objects.get(target_id=volume.pk)


def _delete_volume(stage: Stage) -> Job:
    return volumes.request_delete(_volume(stage), actor=stage.alice)


def _volume_is(status: VolumeStatus, *sizes: int) -> Check:
    def check(_stage: Stage, job: Job) -> bool:
        volume = Volume.objects.get(pk=job.target_id)
        return volume.status == status and volume.task == VolumeTask.NONE and volume.size_gib in sizes

    return check


# --- people's files (on real guests: tests/integration/profiles) ----------------------------------------------------


def _at_hand_without_files(stage: Stage) -> Machine:
    for profile in Profile.objects.held().select_related("machine__host"):
        assert profile.machine is not None
        job = profiles.release(profile.machine)
        assert job is not None
        stage.work_on(job)
    return Machine.objects.select_related("host", "project").get(pk=stage.at_hand().pk)


def _bring_files(stage: Stage) -> Job:
    job = profiles.attach(stage.alice, _at_hand_without_files(stage))
    assert job is not None
    return job


def _bring_first_files(stage: Stage) -> Job:
    person = User.objects.create_user(f"new-{uuid4().hex[:8]}")
    job = profiles.attach(person, _at_hand_without_files(stage))
    assert job is not None
    return job


def _with_files(stage: Stage) -> Machine:
    job = _bring_files(stage)
    assert stage.work_on(job).status == "done", job.error_message
    return Machine.objects.select_related("host").get(pk=job.target_id)


def _put_files_away(stage: Stage) -> Job:
    job = profiles.release(_with_files(stage))
    assert job is not None
    return job


def _put_files_away_of_dead(stage: Stage) -> Job:
    """Its power was cut past the portal, and nobody has heard of it."""
    machine = _with_files(stage)
    driver_of(stage.host).force_off(machine.pk)
    job = profiles.release(machine)
    assert job is not None
    return job


def _files_are_open(stage: Stage, job: Job) -> bool:
    profile = Profile.objects.get(person=job.actor)
    attached = Attachment.objects.filter(machine=job.target_id, volume=profile.volume_id).exists()
    here = (profile.state, profile.machine_id, profile.next_machine_id) == (State.IN_USE, job.target_id, None)
    return attached and here and _nothing_is_changing(stage, job)


def _files_are_free(stage: Stage, job: Job) -> bool:
    here = Profile.objects.filter(Q(machine=job.target_id) | Q(next_machine=job.target_id)).exists()
    attached = Attachment.objects.filter(machine=job.target_id, volume__personal=True).exists()
    return not here and not attached and _nothing_is_changing(stage, job)


# --- snapshots ------------------------------------------------------------------------------------------------------

MANY_SNAPSHOTS = 20


def _kept(stage: Stage) -> Machine:
    """A running machine that has few snapshots."""
    idle = Machine.objects.filter(host=stage.host, status=Status.READY, task=Task.NONE, keeps_definition=False)
    for machine in idle.filter(power_state__in=[PowerState.RUNNING, PowerState.SHUT_OFF], saved_at=None):
        if Snapshot.objects.live().filter(machine=machine).count() < MANY_SNAPSHOTS:
            if machine.power_state == PowerState.SHUT_OFF:
                stage.work_on(services.request_start(machine, actor=stage.alice))
            return Machine.objects.get(pk=machine.pk)
    return stage.built()


def _take(stage: Stage, *, with_memory: bool = False) -> Job:
    name = f"snapshot {uuid4().hex[:8]}"
    return snapshots.request_take(_kept(stage), actor=stage.alice, name=name, with_memory=with_memory)


def _take_with_memory(stage: Stage) -> Job:
    return _take(stage, with_memory=True)


def _taken(stage: Stage, *, with_memory: bool = False) -> Snapshot:
    machine = _kept(stage)
    ready = Snapshot.objects.filter(machine=machine, status=SnapshotStatus.READY, with_memory=with_memory)
    if not ready.exists():
        name = f"snapshot {uuid4().hex[:8]}"
        job = snapshots.request_take(machine, actor=stage.alice, name=name, with_memory=with_memory)
        assert stage.work_on(job).status == "done", job.error_message
    return ready.select_related("machine__project", "machine__host").order_by("created_at")[0]


def _restore(stage: Stage) -> Job:
    """The machine has been given a volume since, which is free again in the end. To take one first is the same work as
    to take one, which has a scene of its own.
    """
    snapshot = _taken(stage)
    if not Attachment.objects.filter(machine=snapshot.machine, volume__isnull=False).exists():
        stage.work_on(disks.request_attach(snapshot.machine, actor=stage.alice, volume=_free(stage)))
    return restoring.request_restore(_again(snapshot), actor=stage.alice)


def _restore_with_memory(stage: Stage) -> Job:
    return restoring.request_restore(_taken(stage, with_memory=True), actor=stage.alice)


def _again(snapshot: Snapshot) -> Snapshot:
    return Snapshot.objects.select_related("machine__project", "machine__host").get(pk=snapshot.pk)


def _delete_snapshot(stage: Stage) -> Job:
    return snapshots.request_delete(_taken(stage), actor=stage.alice)


def _is_at_new_snapshot(stage: Stage, job: Job) -> bool:
    """The newest row of the audit trail says which one."""
    detail = Event.objects.filter(target_id=str(job.target_id), action=JobName.SNAPSHOT_TAKE).latest("pk").detail
    current = Snapshot.objects.get(machine=job.target_id, is_current=True)
    return current.name == detail["name"] and bool(RUNS(stage, job))


def _no_snapshot_is_changing(_stage: Stage, job: Job) -> bool:
    """Whether it was done or not. That the host has what the rows say is compared for every scene."""
    changing = Snapshot.objects.filter(machine=job.target_id).exclude(task=SnapshotTask.NONE)
    return _machine(job).task == Task.NONE and not changing.exists()


def _is_restored(power: PowerState) -> Check:
    def check(stage: Stage, job: Job) -> bool:
        detail = Event.objects.filter(target_id=str(job.target_id), action=JobName.SNAPSHOT_RESTORE).latest("pk").detail
        current, machine = Snapshot.objects.get(machine=job.target_id, is_current=True), _machine(job)
        attached = Attachment.objects.filter(machine=machine, volume__isnull=False).values_list("volume_id", flat=True)
        assert set(attached) == set(current.volumes.values_list("volume_id", flat=True))
        assert (machine.disk_gib, machine.power_state) == (current.disk_gib, power)
        return current.name == detail["name"] and _no_snapshot_is_changing(stage, job)

    return check


# --- discs and rescue -----------------------------------------------------------------------------------------------


def uploaded(stage: Stage, content: bytes) -> UUID:
    """A whole upload of Alice's."""
    upload = uploads.begin(stage.alice, name="disc.iso", size_bytes=len(content))
    upload.path.write_bytes(content)
    return upload.pk


def _import_iso(stage: Stage) -> Job:
    iso = isos.request_iso(uploaded(stage, DISC), actor=stage.alice, name="Installer", project=stage.project)
    return Job.objects.get(target_id=iso.pk)


DISC = b"QFI\xfb".ljust(16 * 2048, b"\0") + b"\1CD001\1" + b"\0" * 2041
"""Begins as a disk of another format does, and is a disc all the same."""


def _iso(stage: Stage) -> Iso:
    """One that is ready."""
    ready = Iso.objects.filter(status=IsoStatus.READY, discs=None, rescues=None).first()
    if ready is None:
        stage.work_on(job := _import_iso(stage))
        ready = Iso.objects.get(pk=job.target_id)
        assert ready.status == IsoStatus.READY, ready.error
    return ready


def _iso_is(status: IsoStatus) -> Check:
    return lambda _stage, job: Iso.objects.get(pk=job.target_id).status == status


def _delete_iso(stage: Stage) -> Job:
    iso = _iso(stage)
    driver_of(stage.host).put_iso(iso.pk, iso.path, progress=lambda _percent: None)
    return isos.request_delete(iso, actor=stage.alice)


def _iso_is_gone(stage: Stage, job: Job) -> bool:
    on_hosts = [driver_of(host).has_iso(job.target_id) for host in (stage.host, stage.other)]
    return not Iso.objects.filter(pk=job.target_id).exists() and on_hosts == [False, False]


def _install(stage: Stage) -> Job:
    machine = installing.request_install(
        stage.project,
        actor=stage.alice,
        iso=_iso(stage),
        flavour=stage.flavour,
        disk_gib=1,
        name=f"fresh-{uuid4().hex[:8]}",
        firmware=MachineFirmware.BIOS,
    )
    return Job.objects.get(target_id=machine.pk)


def _with_free_drive(stage: Stage) -> Machine:
    machine = stage.at_hand()
    disc = Disc.objects.filter(machine=machine).first()
    if disc is not None:
        stage.work_on(discs.request_eject(machine, actor=stage.alice, disc=disc.pk))
        machine.refresh_from_db()
    return machine


def _insert(stage: Stage) -> Job:
    machine = _with_free_drive(stage)
    return discs.request_insert(machine, actor=stage.alice, iso=_iso(stage))


def _eject(stage: Stage) -> Job:
    machine = stage.at_hand()
    if not Disc.objects.filter(machine=machine).exists():
        stage.work_on(discs.request_insert(machine, actor=stage.alice, iso=_iso(stage)))
        machine.refresh_from_db()
    return discs.request_eject(machine, actor=stage.alice, disc=Disc.objects.filter(machine=machine)[0].pk)


def _drives_hold(number: int) -> Check:
    """That the host has in them what the rows say is compared for every scene."""

    def check(_stage: Stage, job: Job) -> bool:
        machine = _machine(job)
        held = Disc.objects.filter(machine=machine, task=Plug.NONE).count()
        return held == number and machine.task == Task.NONE

    return check


def _snapshot_is_gone(stage: Stage, job: Job) -> bool:
    detail = Event.objects.filter(target_id=str(job.target_id), action=JobName.SNAPSHOT_DELETE).latest("pk").detail
    live = Snapshot.objects.live().filter(machine=job.target_id, name=detail["name"])
    return not live.exists() and _no_snapshot_is_changing(stage, job)


def _no_disc_is_changing(_stage: Stage, job: Job) -> bool:
    return discs.in_change(_machine(job)) is None and _machine(job).task == Task.NONE


def _rescue_version(stage: Stage) -> ImageVersion:
    """Another one than machines are made from: the same file as another version."""
    image = stage.version.image
    found = ImageVersion.objects.filter(image=image, number=99).first()
    if found is None:
        sizes = {"size_bytes": stage.version.size_bytes, "virtual_size_bytes": stage.version.virtual_size_bytes}
        found = ImageVersion.objects.create(image=image, number=99, status=VersionStatus.READY, **sizes)
        found.path.write_bytes(stage.version.path.read_bytes())
    return found


def _rescue(stage: Stage) -> Job:
    return rescue.request_rescue(stage.built(), actor=stage.alice, image_version=_rescue_version(stage))


def _rescue_by_disc(stage: Stage) -> Job:
    return rescue.request_rescue(stage.off(), actor=stage.alice, iso=_iso(stage))


def _unrescue(stage: Stage) -> Job:
    job = _rescue(stage)
    stage.work_on(job)
    machine = _machine(job)
    assert machine.rescued_at is not None, machine.error_message
    return rescue.request_unrescue(machine, actor=stage.alice)


def _is_in_rescue(stage: Stage, job: Job) -> bool:
    machine = _machine(job)
    return bool(RUNS(stage, job)) and machine.is_in_rescue and machine.rescued_at is not None


def _is_itself(stage: Stage, job: Job) -> bool:
    """Whether it runs or is off: it starts from its own disk, and nothing of a rescue is known any more."""
    machine = _machine(job)
    traces = (machine.rescue_version_id, machine.rescue_iso_id, machine.rescue_password, machine.rescued_at)
    return _is_whole(stage, job) and traces == (None, None, "", None)


SCENES: dict[JobName, tuple[Scene, ...]] = {
    JobName.MACHINE_CREATE: (
        Scene(_create, RUNS, has_failed, passes=_TO_FORK),
        Scene(_create_forked, _is_forked, has_failed, "forked", again=True, real=False, stride=2, passes=_TO_BOOT),
    ),
    JobName.MACHINE_CLONE: (
        Scene(_clone(linked=True), _is_cloned, _is_not_cloned, "linked", again=True, stride=3),
        Scene(
            _clone(linked=False, identity=Identity.KEPT),
            _is_cloned,
            _is_not_cloned,
            "full",
            again=True,
            real=False,
            stride=7,
        ),
    ),
    JobName.MACHINE_REBUILD: (Scene(_rebuild, _is_rebuilt, again=True, stride=3),),
    JobName.MACHINE_START: (
        Scene(_power(Stage.off, services.request_start), RUNS, OFF),
        Scene(_power(_hibernated, services.request_start), RUNS, OFF, "wake"),
    ),
    JobName.MACHINE_STOP: (Scene(_power(Stage.built, services.request_stop), OFF, _is_whole),),
    JobName.MACHINE_REBOOT: (Scene(_power(Stage.built, services.request_reboot), RUNS, RUNS),),
    JobName.MACHINE_RESET: (Scene(_power(Stage.built, services.request_reset), RUNS, RUNS),),
    JobName.MACHINE_FORCE_OFF: (Scene(_power(Stage.built, services.request_force_off), OFF, RUNS),),
    JobName.MACHINE_PAUSE: (
        Scene(_power(Stage.built, services.request_pause), _is(Status.READY, PowerState.PAUSED), RUNS),
    ),
    JobName.MACHINE_RESUME: (
        Scene(_power(_paused, services.request_resume), RUNS, _is(Status.READY, PowerState.PAUSED)),
    ),
    JobName.MACHINE_HIBERNATE: (
        Scene(
            _power(Stage.built, hibernation.request_hibernate),
            _is_off_and(lambda machine: machine.is_hibernated and machine.saved_gib),
            RUNS,
        ),
    ),
    JobName.MACHINE_DISCARD: (
        Scene(_power(_hibernated, hibernation.request_discard), _is_off_and(lambda machine: not machine.is_hibernated)),
    ),
    JobName.MACHINE_RESIZE: (
        Scene(_resize(Stage.built), _has_larger_size, _waits_for_nothing, "running"),
        Scene(_resize(Stage.off), _has_larger_size, _waits_for_nothing, "off"),
    ),
    JobName.MACHINE_PASSWORD: (Scene(_new_password, _password_is_known),),
    JobName.MACHINE_SSH_KEY: (Scene(_add_key, RUNS),),
    JobName.MACHINE_BIN: (Scene(_bin, _is_binned),),
    JobName.MACHINE_DELETE: (Scene(_power(Stage.built, services.request_delete), is_gone),),
    JobName.MACHINE_DELETE: (
        Scene(_power(Stage.built, services.request_delete), is_gone),
        Scene(_delete_forked, is_gone, name="forked", again=True, real=False, stride=3),
        Scene(_delete_with_volumes, lambda stage, job: is_gone(stage, job) and _one_of_two_is_left(), name="volumes"),
    ),
    JobName.MACHINE_ADOPT: (
        Scene(_adopt_foreign, lambda _stage, job: _machine(job).keeps_definition, _is_left_alone, "foreign"),
        Scene(_adopt_stray, OFF, _is_left_alone, "stray"),
    ),
    JobName.MACHINE_REPAIR: (Scene(_repair, OFF, is_still_missing),),
    JobName.DISK_ATTACH: (
        Scene(_attach, _has(JobName.DISK_ATTACH), _nothing_is_changing, again=True),
        Scene(_attach_new, _has(JobName.DISK_ATTACH), _nothing_is_changing, "new", again=True),
    ),
    JobName.DISK_DETACH: (Scene(_detach, _has(JobName.DISK_DETACH), _nothing_is_changing, again=True),),
    JobName.DISK_GROW: (
        Scene(_grow, _has_grown, _nothing_is_changing, again=True),
        Scene(_grow_root, _has_grown, _nothing_is_changing, "root", again=True),
    ),
    JobName.DISK_LIMITS: (Scene(_limit, _is_limited, _nothing_is_changing, again=True),),
    JobName.CARD_ADD: (Scene(_add_card, _has(JobName.CARD_ADD), _nothing_is_changing, again=True),),
    JobName.CARD_REMOVE: (Scene(_remove_card, _has(JobName.CARD_REMOVE), _nothing_is_changing, again=True),),
    JobName.PROFILE_ATTACH: (
        Scene(_bring_files, _files_are_open, _files_are_free, again=True, real=False, stride=3),
        Scene(_bring_first_files, _files_are_open, _files_are_free, "first", again=True, real=False, stride=3),
    ),
    JobName.PROFILE_DETACH: (
        Scene(_put_files_away, _files_are_free, again=True, real=False),
        Scene(_put_files_away_of_dead, _files_are_free, name="dead", real=False, stride=3),
    ),
    JobName.VOLUME_CREATE: (
        Scene(_create_volume, _volume_is(VolumeStatus.AVAILABLE, 2), _volume_is(VolumeStatus.ERROR, 2)),
    ),
    JobName.VOLUME_GROW: (Scene(_grow_volume, _volume_has_grown, _volume_is_free, again=True),),
    JobName.VOLUME_DELETE: (Scene(_delete_volume, _volume_is(VolumeStatus.DELETED, 1)),),
    JobName.SNAPSHOT_TAKE: (
        Scene(_take, _is_at_new_snapshot, _no_snapshot_is_changing, again=True),
        Scene(_take_with_memory, _is_at_new_snapshot, _no_snapshot_is_changing, "memory", again=True),
    ),
    JobName.SNAPSHOT_RESTORE: (
        Scene(_restore, _is_restored(PowerState.SHUT_OFF), again=True),
        Scene(_restore_with_memory, _is_restored(PowerState.RUNNING), name="memory", again=True),
    ),
    JobName.SNAPSHOT_DELETE: (Scene(_delete_snapshot, _snapshot_is_gone, again=True),),
    JobName.COPY_REMOVE: (Scene(_remove_copy, _copy_is_gone),),
    JobName.IMAGE_BUILD: (Scene(_build, _is_offered, _is_not_offered),),
    JobName.IMAGE_IMPORT: (Scene(_import, _is_offered, _is_not_offered),),
    JobName.IMAGE_FETCH: (Scene(_fetch, _is_offered, _is_not_offered),),
    JobName.IMAGE_CAPTURE: (Scene(_capture, _is_offered, _is_not_offered, again=True, stride=3),),
    JobName.IMAGE_DELETE: (Scene(_delete_image, _image_is_gone),),
    JobName.MACHINE_INSTALL: (Scene(_install, RUNS, has_failed, real=False),),
    JobName.DISC_INSERT: (Scene(_insert, _drives_hold(1), _no_disc_is_changing, again=True, real=False),),
    JobName.DISC_EJECT: (Scene(_eject, _drives_hold(0), _no_disc_is_changing, again=True, real=False),),
    JobName.MACHINE_RESCUE: (
        Scene(_rescue, _is_in_rescue, _is_itself),
        Scene(_rescue_by_disc, _is_in_rescue, _is_itself, "disc", real=False),
    ),
    JobName.MACHINE_UNRESCUE: (Scene(_unrescue, lambda stage, job: RUNS(stage, job) and _is_itself(stage, job)),),
    JobName.ISO_IMPORT: (Scene(_import_iso, _iso_is(IsoStatus.READY), _iso_is(IsoStatus.FAILED)),),
    JobName.ISO_DELETE: (Scene(_delete_iso, _iso_is_gone),),
    JobName.PARENT_BUILD: (
        Scene(_build_parent, _parent_is(ParentState.READY), _parent_is(ParentState.FAILED), real=False, stride=2),
    ),
    JobName.PARENT_DELETE: (Scene(_delete_parent, _parent_is(ParentState.DELETED), real=False),),
}
