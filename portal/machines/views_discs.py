"""Pages and buttons about discs: what lies in the drives, a new machine from an ISO, rescue and back."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.models import Project
from portal.accounts.permissions import Permission
from portal.accounts.selectors import projects_for
from portal.audit import services as audit
from portal.errors import PortalError
from portal.images.models import ImageVersion, Kind
from portal.isos.models import Iso, Role
from portal.isos.selectors import iso_for, isos_in
from portal.machines import discs, installing, launch, rescue
from portal.machines.device_views import answer, uuid_in
from portal.machines.disc_selectors import rescue_images, rescue_isos
from portal.machines.forms_discs import InstallForm, RescueForm
from portal.machines.models import Firmware, Machine
from portal.machines.selectors import machine_for, rescue_password_of
from portal.machines.services import suggest_name
from portal.machines.views import act

# --- what lies in the drives --------------------------------------------------------------------------------------


@require_POST
def disc_insert(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = machine_for(request.user, pk, Permission.MACHINE_OPERATE)
    slot = request.POST.get("slot", "")
    discs.request_insert(
        machine,
        actor=person(request),
        iso=iso_for(request.user, uuid_in(request, "iso")),
        slot=int(slot) if slot.isascii() and slot.isdecimal() and len(slot) == 1 else None,
        request_ip=client_ip(request),
    )
    return answer(request, machine)


@require_POST
def disc_eject(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = machine_for(request.user, pk, Permission.MACHINE_OPERATE)
    discs.request_eject(
        machine,
        actor=person(request),
        disc=uuid_in(request, "disc"),
        force=request.POST.get("force") == "yes",
        request_ip=client_ip(request),
    )
    return answer(request, machine)


@require_POST
def disc_boot(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = machine_for(request.user, pk, Permission.MACHINE_OPERATE)
    first = request.POST.get("first") == "yes"
    discs.set_boot_disc(machine, actor=person(request), first=first, request_ip=client_ip(request))
    return answer(request, machine)


# --- a new machine ------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
def machine_new_iso(request: HttpRequest) -> HttpResponse:
    user = person(request)
    projects = launch.projects_to_launch_in(user)
    if not projects:
        return render(request, "machines/new_nowhere.html", status=403 if request.method == "POST" else 200)
    values = request.POST if request.method == "POST" else request.GET
    project = launch.project_to_launch_in(user, projects, values.get("project"))
    isos, drivers = list(isos_in(user, project, Role.INSTALLER)), list(isos_in(user, project, Role.DRIVERS))
    form = InstallForm(
        request.POST if request.method == "POST" else None,
        projects=projects_for(user, Permission.MACHINE_CREATE),
        isos=isos_in(user, project),
        initial=_initial(request, project, isos),
    )
    machine = _install(request, form) if form.is_valid() else None
    if machine is not None:
        return redirect("machines:detail", pk=machine.pk)
    context = {
        "form": form,
        "projects": projects,
        "project": project,
        "isos": isos,
        "drivers": drivers,
        "sizes": launch.sizes_for(project, None),
        "bars": launch.bars_for(project, None),
        "chosen_iso": str(form["iso"].value() or ""),
        "chosen_drivers": str(form["drivers"].value() or ""),
        "chosen_flavour": str(form["flavour"].value() or ""),
    }
    return render(request, "machines/new_iso.html", context, status=422 if form.errors else 200)


def _initial(request: HttpRequest, project: Project, isos: list[Iso]) -> dict[str, object]:
    wanted = next((iso for iso in isos if str(iso.pk) == request.GET.get("iso")), isos[0] if isos else None)
    fitting = [size.flavour for size in launch.sizes_for(project, None) if not size.reason]
    return {
        "project": project.pk,
        "iso": wanted.pk if wanted else None,
        "flavour": fitting[0].pk if fitting else None,
        "disk_gib": fitting[0].disk_gib if fitting else 20,
        "name": suggest_name(project, kind=Kind.DESKTOP),
        "kind": Kind.DESKTOP,
        "firmware": Firmware.UEFI,
    }


def _install(request: HttpRequest, form: InstallForm) -> Machine | None:
    """The machine, or None with the reason in the form."""
    data = form.cleaned_data
    try:
        return installing.request_install(
            data["project"],
            actor=person(request),
            iso=data["iso"],
            drivers=data["drivers"],
            flavour=data["flavour"],
            disk_gib=data["disk_gib"],
            name=data["name"],
            kind=Kind(data["kind"]),
            firmware=Firmware(data["firmware"]),
            tpm=data["tpm"],
            request_key=data["request_key"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, str(error.message))
        return None


# --- rescue -------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
def machine_rescue(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What it can be started from instead, and what that means; then, by POST, it is."""
    machine = machine_for(request.user, pk, Permission.MACHINE_CREATE)
    images, isos = rescue_images(request.user, machine), rescue_isos(request.user, machine)
    choices: dict[str, tuple[ImageVersion | None, Iso | None]] = {
        str(version.pk): (version, None) for _image, version in images
    }
    choices |= {str(iso.pk): (None, iso) for iso in isos}
    form = RescueForm(request.POST if request.method == "POST" else None, choices=list(choices))
    if form.is_valid():
        version, iso = choices[form.cleaned_data["system"]]
        try:
            rescue.request_rescue(
                machine, actor=person(request), image_version=version, iso=iso, request_ip=client_ip(request)
            )
            return redirect("machines:detail", pk=machine.pk)
        except PortalError as error:
            form.add_error("system", str(error.message))
    context = {"machine": machine, "form": form, "images": images, "isos": isos, "first": next(iter(choices), "")}
    return render(request, "machines/rescue.html", context, status=422 if form.errors else 200)


@require_POST
def machine_unrescue(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_CREATE, rescue.request_unrescue)


@require_POST
@never_cache
def machine_rescue_secret(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The password in the rescue system. That it was looked at is written down first."""
    with transaction.atomic():
        machine, password = rescue_password_of(request.user, pk)
        audit.record(person(request), "machine.rescue_secret", machine, request_ip=client_ip(request))
    template = "machines/_rescue_secret.html" if is_live(request) else "machines/rescue_secret.html"
    return render(request, template, {"machine": machine, "password": password})
