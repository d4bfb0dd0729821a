"""Machines and what they can be told."""

from collections.abc import Callable
from typing import Any, Final, Literal, cast
from uuid import UUID

from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Field, Query, Schema

from portal.accounts.http import client_ip, person
from portal.accounts.models import Project
from portal.accounts.permissions import Permission
from portal.accounts.selectors import project_for
from portal.api.core import Guard, operation
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import ActivityOut, FlavourOut, JobOut, LaunchIn, MachineOut, SecretOut, Text
from portal.audit import services as audit
from portal.errors import ConflictError, InvalidError
from portal.images.models import Image, ImageVersion, Kind
from portal.images.selectors import catalogue_for
from portal.jobs.models import Job
from portal.jobs.selectors import active_job_of, jobs_of
from portal.machines import binning, services
from portal.machines.device_selectors import volume_lines
from portal.machines.disks import MOST_VOLUMES
from portal.machines.launch import login_user_for
from portal.machines.models import Flavour, Machine
from portal.machines.selectors import flavours, machine_for, machines_for, password_of, rows_for
from portal.machines.states import Status
from portal.machines.timeline import timeline_of

TAG: Final = "Machines"
Sort = Literal["-created_at", "created_at", "name", "-name"]
State = Literal["", "running", "off", "hibernated", "busy", "failed", "unknown"] | Status


@operation(
    "GET",
    "machines",
    tag=TAG,
    answers=Listed[MachineOut],
    pages=("machines:list",),
    links={"show_machine": {"pk": "items/0/id"}},
)
def list_machines(
    request: HttpRequest,
    *,
    page: Query[PageQuery],
    q: Text = "",
    status: State = "",
    kind: Kind | None = None,
    project: UUID | None = None,
    name: Text = "",
    label: Text = "",
    sort: Sort = "-created_at",
) -> Listed[MachineOut]:
    """Machines that you see. `q` looks in names and owners, `name` is one whole name, `label` one whole label."""
    user = person(request)
    machines = machines_for(user, search=q, status=status, kind=kind or "", label=label)
    if project:
        machines = machines.filter(project=project)
    if name:
        machines = machines.filter(name=name)
    found = page_of(machines, page, sort)
    rows = rows_for(user, found.rows)
    return Listed[MachineOut](items=[MachineOut.of(row, operator=user.is_staff) for row in rows], next=found.next)


@operation(
    "GET",
    "machines/{uuid:pk}",
    tag=TAG,
    answers=MachineOut,
    pages=("machines:detail", "machines:row"),
    links={name: {"pk": "id"} for name in ("start_machine", "stop_machine", "delete_machine")},
)
def show_machine(request: HttpRequest, pk: UUID) -> MachineOut:
    """One machine."""
    user = person(request)
    [row] = rows_for(user, [machine_for(user, pk)])
    return MachineOut.of(row, operator=user.is_staff)


GUARD: Final = Guard(Machine, show_machine)


@operation("GET", "machines/{uuid:pk}/activity", tag=TAG, answers=Listed[ActivityOut], pages=("machines:detail",))
def list_machine_activity(request: HttpRequest, pk: UUID) -> Listed[ActivityOut]:
    """What happened to a machine lately: its jobs, and what people did."""
    entries = timeline_of(machine_for(person(request), pk))
    items = [
        ActivityOut(at=one.at, title=str(one.title), who=one.who, times=one.times, job=one.job.pk if one.job else None)
        for one in entries
    ]
    return Listed[ActivityOut](items=items, next=None)


# --- a new one ----------------------------------------------------------------------------------------------------


@operation("GET", "flavours", tag=TAG, answers=Listed[FlavourOut], pages=("machines:new",))
def list_flavours(request: HttpRequest) -> Listed[FlavourOut]:
    """The sizes that machines come in."""
    return Listed[FlavourOut](items=[FlavourOut.of(one) for one in flavours()], next=None)


@operation(
    "POST",
    "machines",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:new",),
    links={"show_job": {"pk": "id"}, "show_machine": {"pk": "target/id"}, "delete_machine": {"pk": "target/id"}},
)
def launch_machine(request: HttpRequest, body: LaunchIn) -> Job:
    """Have a machine made. The job's target is the machine."""
    user = person(request)
    project = project_for(user, body.project, Permission.MACHINE_CREATE)
    version = newest_version(request, project, body.image)
    machine = services.request_machine(
        project,
        actor=user,
        image_version=version,
        flavour=flavour_named(body.flavour),
        name=body.name or services.suggest_name(project, kind=version.image.kind),
        login_user=body.login_user or login_user_for(user),
        ssh_key=body.ssh_key,
        user_data=body.user_data,
        request_ip=client_ip(request),
    )
    return job_of(machine)


def newest_version(request: HttpRequest, project: Project, image: UUID) -> ImageVersion:
    """As the catalogue has it; what is not in there is not told apart from what there is not."""
    pairs: list[tuple[Image, ImageVersion | None]] = catalogue_for(person(request), project)
    found = next((pair for pair in pairs if pair[0].pk == image), None)
    if found is None:
        raise InvalidError(_("This image cannot be launched in this project."), field="image")
    if found[1] is None:
        raise ConflictError(_("This image is not ready yet."), field="image")
    return found[1]


def flavour_named(name: str) -> Flavour:
    flavour = flavours().filter(name=name).first()
    if flavour is None:
        raise InvalidError(_("There is no size of this name."), field="flavour")
    return flavour


def job_of(machine: Machine) -> Job:
    """The job that was just asked for; of a request that came again it may have ended."""
    return active_job_of(machine) or jobs_of(machine, limit=1)[0]


# --- what it can be told ------------------------------------------------------------------------------------------


def told(
    name: str, word: str, service: Callable[..., Job], sentence: str, *, needs: Permission = Permission.MACHINE_OPERATE
) -> Callable[..., Job]:
    """An operation that asks a service for a job about one machine. Its page has the same word."""

    def tell(request: HttpRequest, pk: UUID) -> Job:
        machine = machine_for(person(request), pk, needs)
        return service(machine, actor=person(request), request_ip=client_ip(request))

    tell.__name__, tell.__doc__ = name, sentence
    register: Any = operation(
        "POST",
        f"machines/{{uuid:pk}}/{word}",
        tag=TAG,
        answers=JobOut,
        status=202,
        pages=(f"machines:{word}",),
        guards=GUARD,
        links={"show_job": {"pk": "id"}},
    )
    return cast("Callable[..., Job]", register(tell))


told("start_machine", "start", services.request_start, "Switch it on.")
told("stop_machine", "stop", services.request_stop, "Ask the guest to shut down.")
told("reboot_machine", "reboot", services.request_reboot, "Ask the guest to restart.")
told("reset_machine", "reset", services.request_reset, "Reset it, as by the button.")
told("force_off_machine", "force-off", services.request_force_off, "Cut its power.")
told(
    "retry_machine",
    "retry",
    services.request_retry,
    "Build it again after a failure.",
    needs=Permission.MACHINE_CREATE,
)


class DeleteQuery(Schema):
    purge: bool = Field(default=False, description="For good, past the project's bin.")
    volume: list[UUID] = Field(
        default=[],
        max_length=MOST_VOLUMES,
        description="One that goes with it, the others stay. May be said repeatedly.",
    )
    keep_volumes: bool = Field(default=False, description="All of its volumes stay.")


@operation(
    "DELETE",
    "machines/{uuid:pk}",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:delete", "machines:confirm-delete"),
    guards=GUARD,
    links={"show_job": {"pk": "id"}},
)
def delete_machine(request: HttpRequest, pk: UUID, wanted: Query[DeleteQuery]) -> Job:
    """Delete a machine with its root disk, whatever it is doing. The job's `kind` says whether it goes into its
    project's bin, from where it can be taken back; with `purge=true` it goes for good. Volumes go with it or stay as
    was said of each, or as is said here."""
    user = person(request)
    machine = machine_for(user, pk, Permission.MACHINE_DELETE)
    chosen = _volumes_that_go(machine, wanted)
    if not wanted.purge and services.goes_to_bin(machine):
        if chosen is not None:
            raise InvalidError(_("In the bin a machine keeps its volumes: choose with purge=true."), field="volume")
        return binning.request_removal(machine, actor=user, request_ip=client_ip(request))
    return services.request_delete(machine, actor=user, request_ip=client_ip(request), delete_volumes=chosen)


def _volumes_that_go(machine: Machine, wanted: DeleteQuery) -> list[UUID] | None:
    """Nothing said is None. What the machine does not have is refused, for its sender meant something else."""
    if not wanted.volume:
        return [] if wanted.keep_volumes else None
    if wanted.keep_volumes:
        raise InvalidError(_("Either all volumes are kept, or these go."), field="keep_volumes")
    has = {line.volume.pk for line in volume_lines(machine) if line.volume}
    if set(wanted.volume) - has:
        raise InvalidError(_("The machine has no such volume."), field="volume")
    return wanted.volume


@operation("POST", "machines/{uuid:pk}/secret", tag=TAG, answers=SecretOut, pages=("machines:secret",), guards=GUARD)
def show_machine_secret(request: HttpRequest, pk: UUID) -> SecretOut:
    """The first password inside. That it was asked for is written down, so this is a POST."""
    with transaction.atomic():
        machine, password = password_of(person(request), pk)
        audit.record(person(request), "machine.secret", machine, request_ip=client_ip(request))
    return SecretOut(login_user=machine.login_user, password=password)
