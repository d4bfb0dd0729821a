"""What goes out and comes in. Names and words are the contract of version 1: they are added to, never changed."""

import datetime as dt
from enum import Enum
from typing import Annotated, Any, Literal, Self, cast
from uuid import UUID

from ninja import Schema
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from portal.accounts.models import ApiToken, Membership, Project, SshKey, User
from portal.accounts.permissions import Role
from portal.audit.models import Event
from portal.console.models import ConsoleLink, ConsoleSession
from portal.console.selectors import People, Present
from portal.console.tickets import Kind as TicketKind
from portal.events.models import Event as ProjectEvent
from portal.hosts.models import Difference, DifferenceKind, Host
from portal.hosts.selectors import is_answering
from portal.images.models import Firmware, Image, ImageVersion, Kind, Source, VersionStatus
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, JobStatus, StepName, StepStatus
from portal.jobs.selectors import overall_progress
from portal.lib.ssh import key_fingerprint
from portal.machines.models import Flavour, Machine
from portal.machines.selectors import Row
from portal.machines.states import PowerState, Status
from portal.machines.userdata import MOST_BYTES


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("NUL characters are not allowed")  # PostgreSQL refuses them.
    return text


Text = Annotated[str, AfterValidator(_without_nul)]


def spelled_out(choices: type[Enum]) -> WithJsonSchema:
    """The document knows types by their bare names: an enum whose name another one has is written where it is used."""
    return WithJsonSchema({"type": "string", "enum": [choice.value for choice in choices]})


ConsoleKind = Annotated[TicketKind, spelled_out(TicketKind)]


class Input(Schema):
    """What is sent. A field that is not known is refused: it is a word that was misspelt."""

    model_config = ConfigDict(extra="forbid")


# --- who ----------------------------------------------------------------------------------------------------------


class Named(BaseModel):
    id: UUID
    name: str


def _named(row: Project | Host | None) -> Named | None:
    return Named(id=row.pk, name=row.name) if row else None


class TokenOut(BaseModel):
    """`hint` is how the token begins; the token itself was shown once, when it was made."""

    id: UUID
    name: str
    hint: str
    scope: ApiToken.Scope
    project: Named | None
    created_at: dt.datetime
    expires_at: dt.datetime
    used_at: dt.datetime | None
    used_ip: str | None

    @classmethod
    def of(cls, token: ApiToken) -> Self:
        return cls(
            id=token.pk,
            name=token.name,
            hint=token.hint,
            scope=ApiToken.Scope(token.scope),
            project=_named(token.project),
            created_at=token.created_at,
            expires_at=token.expires_at,
            used_at=token.used_at,
            used_ip=token.used_ip,
        )


class MeOut(BaseModel):
    """Who asks, and by which token. `is_operator` is false for a token that is for one project."""

    username: str
    email: str
    is_operator: bool
    token: TokenOut

    @classmethod
    def of(cls, user: User, token: ApiToken) -> Self:
        return cls(username=user.username, email=user.email, is_operator=user.is_staff, token=TokenOut.of(token))


class KeyOut(BaseModel):
    id: int
    name: str
    public_key: str
    fingerprint: str
    used_at: dt.datetime | None

    @classmethod
    def of(cls, key: SshKey) -> Self:
        return cls(
            id=key.pk,
            name=key.name,
            public_key=key.public_key,
            fingerprint=key_fingerprint(key.public_key),
            used_at=key.used_at,
        )


class KeyIn(Input):
    public_key: Text = Field(max_length=8192, description="One line, as in `id_ed25519.pub`.")
    name: Text = Field(default="", max_length=100, description="Left empty, the key's own comment is taken.")


# --- jobs ---------------------------------------------------------------------------------------------------------


class StepOut(BaseModel):
    name: str
    title: str
    status: StepStatus
    progress: int
    detail: str
    started_at: dt.datetime | None
    finished_at: dt.datetime | None

    @classmethod
    def of(cls, step: JobStep) -> Self:
        return cls(
            name=step.name,
            title=str(StepName(step.name).label),  # Django's own way to it is slow, and a list has hundreds.
            status=StepStatus(step.status),
            progress=step.progress,
            detail=step.detail,
            started_at=step.started_at,
            finished_at=step.finished_at,
        )


class TargetOut(BaseModel):
    """What a job or an event is about: `type` is machine, imageversion, project …"""

    type: str
    id: str
    name: str


class JobOut(BaseModel):
    """Background work. It has ended when `finished_at` is set; `status` is then done, failed or cancelled."""

    id: UUID
    kind: JobName
    title: str
    status: JobStatus
    target: TargetOut
    project: UUID | None
    actor: str | None
    progress: int
    steps: list[StepOut]
    cancel_requested: bool
    error_code: str
    error: str
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None

    @classmethod
    def of(cls, job: Job) -> Self:
        steps = sorted(job.steps.all(), key=lambda step: step.position)
        return cls(
            id=job.pk,
            kind=JobName(job.name),
            title=str(JobName(job.name).label),
            status=JobStatus(job.status),
            target=TargetOut(type=job.target_type, id=str(job.target_id), name=job.target_name),
            project=job.project_id,
            actor=job.actor.get_username() if job.actor else None,
            progress=overall_progress(job),
            steps=[StepOut.of(step) for step in steps],
            cancel_requested=job.cancel_requested,
            error_code=job.error_code,
            error=job.error_message,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


# --- machines -----------------------------------------------------------------------------------------------------


class FlavourOut(BaseModel):
    """A size. Memory in MiB, disk in GiB."""

    name: str
    title: str
    vcpus: int
    memory_mib: int
    disk_gib: int

    @classmethod
    def of(cls, flavour: Flavour) -> Self:
        return cls(
            name=flavour.name,
            title=flavour.title,
            vcpus=flavour.vcpus,
            memory_mib=flavour.memory_mib,
            disk_gib=flavour.disk_gib,
        )


class MachineImageOut(BaseModel):
    id: UUID
    title: str
    version: int

    @classmethod
    def of(cls, version: ImageVersion) -> Self:
        return cls(id=version.image_id, title=version.image.title, version=version.number)


class WantedOut(BaseModel):
    """The size that comes with the next start, or that it is being given now."""

    vcpus: int
    memory_mib: int

    @classmethod
    def of(cls, machine: Machine) -> Self | None:
        if machine.wanted_vcpus is None or machine.wanted_memory_mib is None:
            return None
        return cls(vcpus=machine.wanted_vcpus, memory_mib=machine.wanted_memory_mib)


class RescueOut(BaseModel):
    """What it is started from instead of its own disk: an image's version, or an ISO. `since`: null while it begins."""

    version: UUID | None
    iso: UUID | None
    since: dt.datetime | None

    @classmethod
    def of(cls, machine: Machine) -> Self | None:
        if not machine.is_in_rescue:
            return None
        return cls(version=machine.rescue_version_id, iso=machine.rescue_iso_id, since=machine.rescued_at)


class MachineOut(BaseModel):
    """A desktop or server. Its condition is three words: `status` (stable), `task` (what happens to it now) and
    `power_state` (what its host said last). `actions` are those that you may ask for at this moment."""

    id: UUID
    name: str
    description: str
    labels: list[str]
    protected: bool = Field(description="Nobody can delete it until this is taken off.")
    kind: Kind
    project: Named
    owner: str | None
    image: MachineImageOut | None
    cloned_from: UUID | None = Field(description="The machine whose disk its own was copied from.")
    made_by: Literal["", "fork", "restore", "boot"] = Field(
        description="fork: a copy of one that ran, sharing its memory; restore: a copy of one that ran; boot: started "
        "from its image; empty: as boot, and no running copy was kept to make it from."
    )
    made_by_reason: str = Field(description="Why it is no fork, where a running copy was kept.")
    installed_from: str = Field(description="The ISO that it was to be installed from, if it was.")
    firmware: str = Field(description="bios, uefi or uefi_secure; empty if its image says it.")
    tpm: bool
    starts_from_disc: bool = Field(description="Its first disc drive is tried before its disks.")
    rescue: RescueOut | None
    flavour: str | None
    vcpus: int
    memory_mib: int
    disk_gib: int
    wanted: WantedOut | None
    status: Status
    task: str | None
    task_since: dt.datetime | None
    power_state: PowerState
    power_state_at: dt.datetime | None
    hibernated_at: dt.datetime | None = Field(description="Since when its memory lies on its host's disk.")
    error: str
    addresses: list[str]
    mac: str
    login_user: str
    host: Named | None = Field(description="For operators.")
    job: UUID | None = Field(description="The job that works on it now.")
    actions: list[str]
    created_at: dt.datetime
    ready_at: dt.datetime | None

    @classmethod
    def of(cls, row: Row, *, operator: bool) -> Self:
        machine, version = row.machine, row.machine.image_version
        return cls(
            id=machine.pk,
            name=machine.name,
            description=machine.description,
            labels=[label.name for label in machine.labels.all()],
            protected=machine.protected,
            kind=Kind(machine.kind),
            project=Named(id=machine.project_id, name=machine.project.name),
            owner=machine.owner.get_username() if machine.owner else None,
            image=MachineImageOut.of(version) if version else None,
            cloned_from=machine.cloned_from_id,
            made_by=cast(Any, machine.made_by),
            made_by_reason=machine.made_by_reason,
            installed_from=machine.iso_name,
            firmware=machine.firmware,
            tpm=machine.tpm,
            starts_from_disc=machine.boot_disc,
            rescue=RescueOut.of(machine),
            flavour=machine.flavour.name if machine.flavour else None,
            vcpus=machine.vcpus,
            memory_mib=machine.memory_mib,
            disk_gib=machine.disk_gib,
            wanted=WantedOut.of(machine),
            status=Status(machine.status),
            task=machine.task or None,
            task_since=machine.task_since,
            power_state=PowerState(machine.power_state),
            power_state_at=machine.power_state_at,
            hibernated_at=machine.saved_at,
            error=machine.error_message,
            addresses=[str(one) for one in machine.addresses],
            mac=machine.mac,
            login_user=machine.login_user,
            host=_named(machine.host) if operator else None,
            job=row.job.pk if row.job else None,
            actions=sorted(row.actions),
            created_at=machine.created_at,
            ready_at=machine.ready_at,
        )


class LaunchIn(Input):
    project: UUID
    image: UUID = Field(description="An image; its newest version that is ready is taken.")
    flavour: Text = Field(max_length=40, description="A size, by its name.")
    name: Text | None = Field(default=None, max_length=63, description="Its host name. Left out, a free one is chosen.")
    login_user: Text | None = Field(default=None, max_length=32, description="Left out, made from your user name.")
    ssh_key: Text = Field(default="", max_length=20_000, description="A public key that lets in.")
    user_data: Text = Field(default="", max_length=MOST_BYTES, description="cloud-config, for its first start.")


class SecretOut(BaseModel):
    login_user: str
    password: str


class ActivityOut(BaseModel):
    """One thing that happened: a job (`job` is its id), or what somebody did."""

    at: dt.datetime
    title: str
    who: str
    times: int
    job: UUID | None


# --- images -------------------------------------------------------------------------------------------------------


class VersionOut(BaseModel):
    id: UUID
    number: int
    status: VersionStatus
    firmware: Firmware
    size_bytes: int
    virtual_size_bytes: int
    sha256: str
    error: str
    created_at: dt.datetime

    @classmethod
    def of(cls, version: ImageVersion) -> Self:
        return cls(
            id=version.pk,
            number=version.number,
            status=VersionStatus(version.status),
            firmware=Firmware(version.firmware),
            size_bytes=version.size_bytes,
            virtual_size_bytes=version.virtual_size_bytes,
            sha256=version.sha256,
            error=version.error,
            created_at=version.created_at,
        )


class ImageOut(BaseModel):
    """`project` is null for an image that is everyone's. Versions are the newest first."""

    id: UUID
    slug: str
    title: str
    description: str
    kind: Kind
    source: Source
    project: Named | None
    min_memory_mib: int
    created_at: dt.datetime
    versions: list[VersionOut]

    @classmethod
    def of(cls, image: Image) -> Self:
        return cls(
            id=image.pk,
            slug=image.slug,
            title=image.title,
            description=image.description,
            kind=Kind(image.kind),
            source=Source(image.source),
            project=_named(image.project),
            min_memory_mib=image.min_memory_mib,
            created_at=image.created_at,
            versions=[VersionOut.of(version) for version in image.versions.all()],
        )


# --- projects -----------------------------------------------------------------------------------------------------


class LimitOut(BaseModel):
    used: int
    limit: int


class QuotaOut(BaseModel):
    machines: LimitOut
    vcpus: LimitOut
    memory_mib: LimitOut
    disk_gib: LimitOut


class ProjectOut(BaseModel):
    """`role` is yours; null for an operator who has none in it."""

    id: UUID
    name: str
    description: str
    created_at: dt.datetime
    role: Role | None
    bin_days: int = Field(description="How long a deleted machine can be taken back.")
    quota: QuotaOut

    @classmethod
    def of(cls, project: Project, role: Role | None) -> Self:
        quota = {
            name: LimitOut(used=getattr(project, f"used_{name}"), limit=getattr(project, f"max_{name}"))
            for name in QuotaOut.model_fields
        }
        return cls(
            id=project.pk,
            name=project.name,
            description=project.description,
            created_at=project.created_at,
            role=role,
            bin_days=project.bin_days,
            quota=QuotaOut(**quota),
        )


MOST = 2**31 - 1


class QuotaIn(Input):
    machines: int = Field(default=10, ge=0, le=MOST)
    vcpus: int = Field(default=20, ge=0, le=MOST)
    memory_mib: int = Field(default=20480, ge=0, le=MOST)
    disk_gib: int = Field(default=200, ge=0, le=MOST)


class ProjectIn(Input):
    name: Text = Field(min_length=1, max_length=100, pattern=r"\S")
    description: Text = Field(default="", max_length=2000)
    owner: Text | None = Field(default=None, max_length=150, description="User name of the first owner.")
    quota: QuotaIn = QuotaIn()


class MemberOut(BaseModel):
    id: int
    username: str
    role: Role

    @classmethod
    def of(cls, membership: Membership) -> Self:
        return cls(id=membership.pk, username=membership.user.get_username(), role=Role(membership.role))


class MemberIn(Input):
    person: Text = Field(min_length=1, max_length=254, description="User name or e-mail address.")
    role: Role = Role.MEMBER


class RoleIn(Input):
    role: Role


# --- hosts --------------------------------------------------------------------------------------------------------


class HostOut(BaseModel):
    """Reserved is what was promised to machines; the other figures are what the host said last."""

    id: UUID
    name: str
    enabled: bool
    is_answering: bool
    last_seen_at: dt.datetime | None
    last_error: str
    accelerator: str
    accelerator_reason: str
    cpus: int
    load: float
    memory_mib: int
    memory_used_mib: int
    storage_total_bytes: int
    storage_free_bytes: int
    reserved_vcpus: int
    reserved_memory_mib: int
    reserved_disk_gib: int
    machine_count: int
    difference_count: int

    @classmethod
    def of(cls, host: Host) -> Self:
        """Of a host with its counts (`hosts_with_counts`)."""
        columns = {name: getattr(host, name) for name in cls.model_fields if name not in _COMPUTED}
        return cls(
            is_answering=is_answering(host),
            difference_count=getattr(host, "difference_count", None) or 0,
            machine_count=getattr(host, "machine_count", None) or 0,
            **columns,
        )


_COMPUTED = frozenset({"is_answering", "difference_count", "machine_count"})


class HostIn(Input):
    enabled: bool = Field(description="Whether it takes new machines.")


class DifferenceOut(BaseModel):
    id: UUID
    kind: DifferenceKind
    object_id: UUID
    name: str
    detail: dict[str, Any]
    found_at: dt.datetime

    @classmethod
    def of(cls, row: Difference) -> Self:
        return cls(
            id=row.pk,
            kind=DifferenceKind(row.kind),
            object_id=row.object_id,
            name=row.name,
            detail=row.detail,
            found_at=row.found_at,
        )


class AdoptIn(Input):
    project: UUID
    name: Text = Field(min_length=1, max_length=63)


class OverviewOut(BaseModel):
    hosts: int
    troubled_hosts: int
    machines: dict[str, int]
    running_jobs: int
    stuck_jobs: int
    failures_of_last_day: int
    open_sessions: int


# --- screens ------------------------------------------------------------------------------------------------------


class TicketIn(Input):
    kind: ConsoleKind = Field(default=TicketKind.SCREEN, description="The screen, or the serial line.")
    mode: ConsoleSession.Mode = ConsoleSession.Mode.CONTROL


class TicketOut(BaseModel):
    """`path` is where the WebSocket is opened, within half a minute and once, with the subprotocol
    `casement.ticket.<ticket>`, this same token in its Authorization header, and the portal's address as its Origin."""

    ticket: str
    path: str
    mode: ConsoleSession.Mode
    session: UUID


class PresentOut(BaseModel):
    username: str
    since: dt.datetime
    asked_at: dt.datetime | None
    controls: bool
    is_operator: bool
    tabs: int

    @classmethod
    def of(cls, one: Present) -> Self:
        return cls(
            username=one.name,
            since=one.since,
            asked_at=one.asked_at,
            controls=one.controls,
            is_operator=one.is_operator,
            tabs=one.tabs,
        )


class PeopleOut(BaseModel):
    """Who is at a screen; `removed` are kept out of it for a while, and listed for those who may let them in."""

    present: list[PresentOut]
    removed: list[str]
    i_control: bool

    @classmethod
    def of(cls, people: People) -> Self:
        return cls(
            present=[PresentOut.of(one) for one in people.present],
            removed=[ban.user.get_username() for ban in people.banned],
            i_control=people.i_control,
        )


class PersonIn(Input):
    username: Text = Field(min_length=1, max_length=150)


class LinkIn(Input):
    mode: ConsoleLink.Mode = ConsoleLink.Mode.VIEW
    lifetime_s: int = Field(default=3600, ge=60, le=7 * 86400, description="Seconds until it ends: a minute to a week.")


class LinkOut(BaseModel):
    id: UUID
    mode: ConsoleLink.Mode
    made_by: str
    created_at: dt.datetime
    expires_at: dt.datetime

    @classmethod
    def of(cls, link: ConsoleLink) -> Self:
        return cls(
            id=link.pk,
            mode=ConsoleLink.Mode(link.mode),
            made_by=link.created_by_name,
            created_at=link.created_at,
            expires_at=link.expires_at,
        )


class NewLinkOut(LinkOut):
    """`url` is shown this once."""

    url: str


class OpenLinkIn(Input):
    token: Text = Field(min_length=1, max_length=200, description="The last part of the link's address.")


class OpenedOut(BaseModel):
    machine: UUID
    mode: ConsoleLink.Mode


class SessionOut(BaseModel):
    """A screen that is or was open."""

    id: UUID
    username: str
    machine: UUID | None
    machine_name: str
    kind: ConsoleKind
    mode: ConsoleSession.Mode
    door: ConsoleSession.Door
    ip: str | None
    started_at: dt.datetime
    ended_at: dt.datetime | None
    ended_step: str
    ended_reason: str

    @classmethod
    def of(cls, session: ConsoleSession) -> Self:
        return cls(
            id=session.pk,
            username=session.user_name,
            machine=session.machine_id,
            machine_name=session.machine_name,
            kind=TicketKind(session.kind),
            mode=ConsoleSession.Mode(session.mode),
            door=ConsoleSession.Door(session.door),
            ip=session.request_ip,
            started_at=session.started_at,
            ended_at=session.ended_at,
            ended_step=session.ended_step,
            ended_reason=session.ended_reason,
        )


class StepTriedOut(BaseModel):
    name: str
    ok: bool | None
    ms: float
    step: str
    reason: str


class SelftestOut(BaseModel):
    steps: list[StepTriedOut]


# --- audit --------------------------------------------------------------------------------------------------------


class EventOut(BaseModel):
    id: int
    at: dt.datetime
    actor: str
    action: str
    target: TargetOut
    project: UUID | None
    detail: dict[str, Any]
    ip: str | None

    @classmethod
    def of(cls, event: Event, *, operator: bool) -> Self:
        """Where people sit is for operators."""
        return cls(
            id=event.pk,
            at=event.at,
            actor=event.actor_name,
            action=event.action,
            target=TargetOut(type=event.target_type, id=event.target_id, name=event.target_name),
            project=event.project_id,
            detail=event.detail if isinstance(event.detail, dict) else {},
            ip=event.request_ip if operator else None,
        )


# --- events -------------------------------------------------------------------------------------------------------


class HappenedOut(BaseModel):
    """`kind` is such as machine.state; what `detail` holds depends on it."""

    id: UUID
    at: dt.datetime
    kind: str
    subject: TargetOut
    project: UUID | None
    actor: str | None
    detail: dict[str, Any]

    @classmethod
    def of(cls, event: ProjectEvent) -> Self:
        return cls(
            id=event.uid,
            at=event.at,
            kind=event.kind,
            subject=TargetOut(type=event.subject_type, id=str(event.subject_id), name=event.subject_name),
            project=event.project_id,
            actor=event.actor_name or None,
            detail=event.data,
        )
