"""Machines as pages: the list, a new one, one machine, and the buttons on them."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import keys_of, permissions_in, projects_for
from portal.audit import services as audit
from portal.errors import NotFoundError, PortalError
from portal.images.models import Image, Kind
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, StepStatus
from portal.jobs.selectors import active_job_of, overall_progress, steps_shown, usual_seconds_of_steps
from portal.lib.paging import page_of, text_of
from portal.machines import binning, launch, many, services
from portal.machines.device_selectors import (
    disk_lines,
    first_card_addresses,
    further_cards,
    volume_lines,
    volumes_for_machine,
)
from portal.machines.disc_selectors import drive_lines, insertable
from portal.machines.forms import MachineForm
from portal.machines.models import Machine
from portal.machines.selectors import (
    Row,
    allowed_actions,
    labels_of,
    machine_for,
    machines_for,
    password_of,
    rows_for,
)
from portal.machines.states import PowerState, Status, Task
from portal.machines.timeline import timeline_of
from portal.volumes.selectors import suggest_name

PER_PAGE = 36  # Drawing the cards is the greater part of the page's time; this many fill two screens.
VIEW_COOKIE = "casement_view"
CONDITION_CHOICES = {
    "running": gettext_lazy("Running"),
    "off": gettext_lazy("Shut off"),
    "hibernated": gettext_lazy("Hibernated"),
    "busy": gettext_lazy("Busy"),
    "failed": gettext_lazy("Failed"),
    "unknown": gettext_lazy("Host not answering"),
}

# --- the list -----------------------------------------------------------------------------------------------------


@require_safe
def machine_list(request: HttpRequest) -> HttpResponse:
    user = person(request)
    filters = {name: text_of(request, name) for name in ("q", "status", "kind", "project", "label")}
    page = page_of(
        request,
        machines_for(
            user,
            search=filters["q"],
            status=filters["status"],
            kind=filters["kind"],
            project=filters["project"],
            label=filters["label"],
        ),
        per_page=PER_PAGE,
    )
    view = _wanted_view(request)
    context: dict[str, Any] = {
        "page": page,
        "rows": rows_for(user, page.object_list),
        "view": view,
        "filters": filters,
        "filtered": any(filters.values()),
        "many_actions": many.CHOICES,
        "many_id": uuid4(),
    }
    if not is_live(request) or not context["rows"]:
        context |= _choices_of(user, with_tiles=not (context["rows"] or context["filtered"]))
    response = render(request, "machines/_list.html" if is_live(request) else "machines/list.html", context)
    if "view" in request.GET:
        response.set_cookie(
            VIEW_COOKIE,
            view,
            max_age=31_536_000,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
    return response


def _choices_of(user: User, *, with_tiles: bool) -> dict[str, object]:
    """What the filters offer, and what can be launched by someone who has no machine yet."""
    may_create = projects_for(user, Permission.MACHINE_CREATE).exists()
    return {
        "projects": list(projects_for(user).values("name")),  # An operator has hundreds; only their names are shown.
        "conditions": CONDITION_CHOICES,
        "kinds": Kind.choices,
        "labels": labels_of(user),
        "binned": binning.binned_for(user).count(),
        "may_create": may_create,
        "tiles": _first_tiles(user) if may_create and with_tiles else [],
    }


def _first_tiles(user: User) -> list[launch.Tile]:
    launchable = launch.projects_to_launch_in(user)
    return launch.tiles_for(user, launch.project_to_launch_in(user, launchable, None))


def _wanted_view(request: HttpRequest) -> str:
    wanted = request.GET.get("view") or request.COOKIES.get(VIEW_COOKIE, "")
    return "table" if wanted == "table" else "cards"


@require_safe
def machine_row(request: HttpRequest, pk: UUID) -> HttpResponse:
    """One card or table row again, after something happened to its machine."""
    user = person(request)
    [row] = rows_for(user, [machine_for(user, pk)])
    template = "machines/_row.html" if _wanted_view(request) == "table" else "machines/_card.html"
    return render(request, template, {"row": row})


# --- a new one ----------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
def machine_new(request: HttpRequest) -> HttpResponse:
    user = person(request)
    projects = launch.projects_to_launch_in(user)
    if not projects:
        return render(request, "machines/new_nowhere.html", status=403 if request.method == "POST" else 200)
    values = request.POST if request.method == "POST" else request.GET
    project = launch.project_to_launch_in(user, projects, values.get("project"))
    tiles = launch.tiles_for(user, project)
    if request.method == "POST":
        form = _form(user, projects, tiles, data=request.POST)
        machine = _launch(request, form, tiles) if form.is_valid() else None
        if machine is not None:
            return redirect("machines:detail", pk=machine.pk)
        return render(request, "machines/new.html", _new_context(form, projects, project, tiles), status=422)
    form = _form(user, projects, tiles, initial=_initial(request, project, tiles))
    return render(request, "machines/new.html", _new_context(form, projects, project, tiles))


def _form(user: User, projects: list[Project], tiles: list[launch.Tile], **values: Any) -> MachineForm:
    return MachineForm(
        projects=projects_for(user, Permission.MACHINE_CREATE),
        images=Image.objects.filter(pk__in=[tile.image.pk for tile in tiles if tile.version]),
        **values,
    )


def _launch(request: HttpRequest, form: MachineForm, tiles: list[launch.Tile]) -> Machine | None:
    """The machine, or None with the reason in the form, at the field it belongs to."""
    data = form.cleaned_data
    version = next(tile.version for tile in tiles if tile.image == data["image"])
    assert version is not None  # noqa: S101 - the form offers only images that have one
    try:
        return services.request_machine(
            data["project"],
            actor=person(request),
            image_version=version,
            flavour=data["flavour"],
            name=data["name"],
            login_user=data["login_user"],
            ssh_key=data["ssh_key"],
            user_data=data["user_data"],
            request_key=data["request_key"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, str(error.message))
        return None


def _initial(request: HttpRequest, project: Project, tiles: list[launch.Tile]) -> dict[str, object]:
    user = person(request)
    ready = [tile for tile in tiles if tile.version]
    tile = next((one for one in ready if str(one.image.pk) == request.GET.get("image")), ready[0] if ready else None)
    sizes = launch.sizes_for(project, tile)
    fitting = [size.flavour for size in sizes if not size.reason]
    wanted = [flavour for flavour in fitting if str(flavour.pk) == request.GET.get("flavour")]
    key = keys_of(user).first()
    return {
        "project": project.pk,
        "image": tile.image.pk if tile else None,
        "flavour": (wanted or fitting)[0].pk if fitting else None,
        "name": tile.suggested_name if tile else "",
        "login_user": launch.login_user_for(user),
        "ssh_key": key.public_key if key else "",
    }


def _new_context(
    form: MachineForm, projects: list[Project], project: Project, tiles: list[launch.Tile]
) -> dict[str, object]:
    chosen_image, chosen_flavour = str(form["image"].value() or ""), str(form["flavour"].value() or "")
    tile = next((one for one in tiles if str(one.image.pk) == chosen_image), None)
    sizes = launch.sizes_for(project, tile)
    flavour = next((s.flavour for s in sizes if str(s.flavour.pk) == chosen_flavour and not s.reason), None)
    return {
        "form": form,
        "projects": projects,
        "project": project,
        "tiles": tiles,
        "sizes": sizes,
        "bars": launch.bars_for(project, flavour.amount if flavour else None),
        "chosen_image": chosen_image,
        "chosen_flavour": chosen_flavour,
        "flavour": flavour,
        "more_open": bool({"login_user", "ssh_key", "user_data"} & form.errors.keys()),
    }


# --- one machine --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepLine:
    """A step and how long it usually takes, if that is known."""

    step: JobStep
    usual: float | None


@require_safe
@never_cache
def machine_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What lies in the bin is shown there: records lead here long after."""
    user = person(request)
    try:
        machine = machine_for(user, pk)
    except NotFoundError:
        if is_live(request) or not binning.binned_for(user).filter(pk=pk).exists():
            raise
        return redirect("machines:bin")
    context = _detail_context(request, machine)
    return render(request, "machines/_detail.html" if is_live(request) else "machines/detail.html", context)


def _detail_context(request: HttpRequest, machine: Machine) -> dict[str, object]:
    actions = allowed_actions(request.user, machine)
    job = active_job_of(machine)
    stage = _stage(machine, job)
    stage_key = _stage_key(machine, stage)
    return {
        "machine": machine,
        "actions": actions,
        "row": Row(machine, actions, job),
        "job": job,
        "lines": _step_lines(job) if job else [],
        "progress": overall_progress(job) if job else 0,
        "stage": stage,
        "stage_key": stage_key,
        # A screen that is alive in the page is not sent again: see base.js, data-keep.
        "stage_is_there": stage == "screen" and request.GET.get("stage") == stage_key,
        "console_mode": "control" if "console" in actions else "view",
        "stop_overdue_in": _stop_overdue_in(machine),
        "timeline": timeline_of(machine),
        "to_bin": services.goes_to_bin(machine),
        **_devices(request, machine, changeable="devices" in actions),
        "ssh_command": f"ssh {machine.login_user}@{machine.addresses[0]}" if machine.addresses else "",
    }


def _devices(request: HttpRequest, machine: Machine, *, changeable: bool) -> dict[str, object]:
    """Disks, discs and network cards; and what the forms that change them offer, for those who may."""
    cards = further_cards(machine)
    shown: dict[str, object] = {
        "disks": disk_lines(machine),
        "drives": drive_lines(machine),
        "cards": cards,
        "first_card_addresses": first_card_addresses(machine, cards),
    }
    if changeable:
        attachable, elsewhere_count = volumes_for_machine(machine)
        shown |= {
            "attachable": attachable,
            "insertable": list(insertable(request.user, machine)),
            "volumes_elsewhere": elsewhere_count,
            "new_disk_name": suggest_name(machine.project),
        }
    return shown


def _stage(machine: Machine, job: Job | None) -> str:
    """What the large place shows: screen, steps, error, missing, silent, dark (it runs without a screen), or off."""
    if machine.has_screen:
        return "screen"
    if job is not None:
        return "steps"
    if machine.status == Status.ERROR:
        return "error"
    if machine.missing_since is not None:
        return "missing"
    if machine.power_state == PowerState.UNKNOWN:
        return "silent"
    return "off" if machine.power_state == PowerState.SHUT_OFF else "dark"


def _stage_key(machine: Machine, stage: str) -> str:
    """Another start of the machine is another screen. The key tells nothing of where the screen is."""
    if stage != "screen":
        return stage
    identity = f"{machine.pk}:{machine.console_socket}:{machine.console_secret}"
    return salted_hmac("portal.machines.stage", identity).hexdigest()[:16]


def _step_lines(job: Job) -> list[StepLine]:
    usual = usual_seconds_of_steps(JobName(job.name))
    return [
        StepLine(step, usual.get(step.name) if step.status in {StepStatus.PENDING, StepStatus.RUNNING} else None)
        for step in steps_shown(job)
    ]


def _stop_overdue_in(machine: Machine) -> int | None:
    """Seconds until a shut-down counts as stuck; 0 when it does, None when none is under way."""
    if machine.task != Task.STOPPING or machine.task_since is None:
        return None
    deadline = machine.task_since + dt.timedelta(seconds=settings.GUEST_SHUTDOWN_TIMEOUT_S)
    return max(round((deadline - timezone.now()).total_seconds()), 0)


# --- its buttons --------------------------------------------------------------------------------------------------

Action = Callable[..., Job]


def act(request: HttpRequest, pk: UUID, permission: Permission, service: Action) -> HttpResponse:
    """Ask for it; htmx then refreshes what shows the machine, a plain browser goes to its page."""
    machine = machine_for(request.user, pk, permission)
    service(machine, actor=person(request), request_ip=client_ip(request))
    if is_live(request):
        changed = {"casement:changed": {"topics": [f"machine:{machine.pk}"]}}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(changed)})
    return redirect("machines:detail", pk=machine.pk)


@require_POST
def machine_start(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_OPERATE, services.request_start)


@require_POST
def machine_stop(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_OPERATE, services.request_stop)


@require_POST
def machine_reboot(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_OPERATE, services.request_reboot)


@require_POST
def machine_reset(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_OPERATE, services.request_reset)


@require_POST
def machine_force_off(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_OPERATE, services.request_force_off)


@require_POST
def machine_retry(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_CREATE, services.request_retry)


@require_safe
def machine_confirm_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What will be lost, in words: a dialog over the page, or without a script a page."""
    machine = machine_for(request.user, pk, Permission.MACHINE_DELETE)
    template = "machines/_confirm_delete.html" if is_live(request) else "machines/confirm_delete.html"
    to_bin = services.goes_to_bin(machine)
    may_purge = to_bin and Permission.MACHINE_PURGE in permissions_in(request.user, machine.project_id)
    context = {
        "machine": machine,
        "next": _next_of(request),
        "to_bin": to_bin,
        "may_purge": may_purge,
        "volumes": volume_lines(machine),
    }
    return render(request, template, context)


@require_POST
def machine_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Into the bin, where its project has one; past it only if that was asked for."""
    machine = machine_for(request.user, pk, Permission.MACHINE_DELETE)
    actor, request_ip = person(request), client_ip(request)
    if request.POST.get("purge") == "yes" or not services.goes_to_bin(machine):
        chosen = _volumes_to_delete(request)
        services.request_delete(machine, actor=actor, request_ip=request_ip, delete_volumes=chosen)
        text = _("%(name)s is being deleted.")
    else:
        binning.request_removal(machine, actor=actor, request_ip=request_ip)
        text = _("%(name)s goes into the bin.")
    messages.success(request, text % {"name": machine.name})
    target = _next_of(request)
    if is_live(request):
        return HttpResponse(status=204, headers={"HX-Redirect": target})
    return redirect(target)


def _volumes_to_delete(request: HttpRequest) -> list[UUID] | None:
    """Those that are ticked, if the form asked; what is no id names no volume."""
    if "volumes_asked" not in request.POST:
        return None
    chosen = []
    for text in request.POST.getlist("delete_volume"):
        with contextlib.suppress(ValueError):
            chosen.append(UUID(text))
    return chosen


def _next_of(request: HttpRequest) -> str:
    """The list as it was filtered, if it asked; never another site's address."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    home = reverse("machines:list")
    safe = url_has_allowed_host_and_scheme(wanted, allowed_hosts=None) and wanted.split("?")[0] == home
    return wanted if safe else home


@require_POST
@never_cache
def machine_secret(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The first password in the guest. That it was looked at is written down first."""
    with transaction.atomic():
        machine, password = password_of(request.user, pk)
        audit.record(person(request), "machine.secret", machine, request_ip=client_ip(request))
    template = "machines/_secret.html" if is_live(request) else "machines/secret.html"
    return render(request, template, {"machine": machine, "password": password})
