"""Pages that copy a machine's disk as a whole, or replace it: a clone, an image, rebuilding."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.copies import capturing, cloning, rebuilding
from portal.copies.capturing import CaptureRequest
from portal.copies.cloning import CloneRequest
from portal.copies.forms import CaptureForm, CloneForm, RebuildForm
from portal.copies.selectors import images_for_capture, snapshots_to_copy, suggest_clone_name
from portal.errors import PortalError
from portal.images.models import ImageVersion
from portal.images.selectors import catalogue_for
from portal.machines.device_selectors import volume_lines
from portal.machines.models import Machine
from portal.machines.selectors import machine_for


@require_http_methods(["GET", "HEAD", "POST"])
def clone(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = machine_for(request.user, pk, Permission.MACHINE_CREATE)
    snapshots = snapshots_to_copy(machine)
    if request.method == "POST":
        form = CloneForm(request.POST, snapshots=snapshots)
        made = _cloned(request, machine, form) if form.is_valid() else None
        if made is not None:
            return redirect("machines:detail", pk=made.pk)
    else:
        initial = {"name": suggest_clone_name(machine), "snapshot": request.GET.get("snapshot", "")}
        form = CloneForm(initial=initial, snapshots=snapshots)
    context = {"machine": machine, "form": form, "volumes": volume_lines(machine)}
    return render(request, "copies/clone.html", context, status=422 if form.errors else 200)


def _cloned(request: HttpRequest, machine: Machine, form: CloneForm) -> Machine | None:
    wanted = CloneRequest(form.cleaned_data["name"], form.is_linked, form.chosen_identity, form.chosen_snapshot)
    try:
        return cloning.request_clone(
            machine,
            actor=person(request),
            wanted=wanted,
            request_key=form.cleaned_data["request_key"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        _put_error(form, error)
        return None


@require_http_methods(["GET", "HEAD", "POST"])
def capture(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine, user = machine_for(request.user, pk, Permission.IMAGE_CREATE), person(request)
    choices: dict[str, Any] = {"user": user, "machine": machine, "images": images_for_capture(user, machine)}
    choices["snapshots"] = snapshots_to_copy(machine)
    if request.method == "POST":
        form = CaptureForm(request.POST, **choices)
        version = _captured(request, machine, form) if form.is_valid() else None
        if version is not None:
            text = _("An image of %(name)s is being made. The machine is busy until its disk has been copied.")
            messages.success(request, text % {"name": machine.name})
            return redirect("images:detail", pk=version.image_id)
    else:
        initial = {"title": machine.name, "snapshot": request.GET.get("snapshot", "")}
        form = CaptureForm(**choices, initial=initial)
    context = {"machine": machine, "form": form, "volumes": volume_lines(machine)}
    return render(request, "copies/capture.html", context, status=422 if form.errors else 200)


def _captured(request: HttpRequest, machine: Machine, form: CaptureForm) -> ImageVersion | None:
    wanted = CaptureRequest(
        image=form.chosen_image,
        title=form.cleaned_data["title"],
        for_everyone=form.for_everyone,
        identity=form.chosen_identity,
        snapshot=form.chosen_snapshot,
    )
    try:
        return capturing.request_capture(
            machine,
            actor=person(request),
            wanted=wanted,
            request_key=form.cleaned_data["request_key"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        _put_error(form, error)
        return None


@require_http_methods(["GET", "HEAD", "POST"])
def rebuild(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What will be lost, in words; it is done when the machine's name has been typed."""
    machine = machine_for(request.user, pk, Permission.MACHINE_DELETE)
    versions = [version for _image, version in catalogue_for(request.user, machine.project) if version is not None]
    if request.method == "POST":
        form = RebuildForm(request.POST, versions=versions)
        if form.is_valid() and _rebuilt(request, machine, form):
            return redirect("machines:detail", pk=machine.pk)
    else:
        form = RebuildForm(versions=versions, initial={"image": _like(machine, versions)})
    context = {
        "machine": machine,
        "form": form,
        "choices": [(version, rebuilding.why_not(machine, version)) for version in versions],
        "chosen": str(form["image"].value() or ""),
        "volumes": volume_lines(machine),
    }
    return render(request, "copies/rebuild.html", context, status=422 if form.errors else 200)


def _like(machine: Machine, versions: list[ImageVersion]) -> UUID | None:
    """Of the image that it is made of, the version that new machines get."""
    image = machine.image_version.image_id if machine.image_version else None
    return next((version.pk for version in versions if version.image_id == image), None)


def _rebuilt(request: HttpRequest, machine: Machine, form: RebuildForm) -> bool:
    try:
        rebuilding.request_rebuild(
            machine,
            actor=person(request),
            version=form.cleaned_data["image"],
            confirmed=form.cleaned_data["confirm"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        _put_error(form, error)
        return False
    return True


def _put_error(form: forms.Form, error: PortalError) -> None:
    form.add_error(error.field if error.field in form.fields else None, str(error.message))
