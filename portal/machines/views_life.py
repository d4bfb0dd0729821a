"""Pages and buttons beside power: pausing, hibernating, another size, name and labels, password and key."""

from __future__ import annotations

from uuid import UUID

from django import forms
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import keys_of
from portal.audit import services as audit
from portal.errors import PortalError
from portal.machines import access, editing, hibernation, resizing, services, sizes
from portal.machines.forms import EditForm, KeyForm, ResizeForm
from portal.machines.models import Machine
from portal.machines.selectors import machine_for, user_data_of
from portal.machines.views import act


@require_POST
def machine_pause(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_OPERATE, services.request_pause)


@require_POST
def machine_resume(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_OPERATE, services.request_resume)


@require_POST
def machine_hibernate(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_OPERATE, hibernation.request_hibernate)


@require_POST
def machine_discard(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_OPERATE, hibernation.request_discard)


@require_POST
def machine_password(request: HttpRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, Permission.MACHINE_SECRET, access.request_password)


@require_http_methods(["GET", "HEAD", "POST"])
def machine_resize(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Every size, and which part of it comes at once and which with the next start."""
    machine = machine_for(request.user, pk, Permission.MACHINE_CREATE)
    form = ResizeForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            resizing.request_resize(
                machine, actor=person(request), flavour=form.cleaned_data["flavour"], request_ip=client_ip(request)
            )
        except PortalError as error:
            _put_error(form, error)
        else:
            return redirect("machines:detail", pk=machine.pk)
    context = {"machine": machine, "form": form, "choices": sizes.choices_for(machine)}
    return render(request, "machines/resize.html", context, status=422 if form.errors else 200)


@require_http_methods(["GET", "HEAD", "POST"])
def machine_edit(request: HttpRequest, pk: UUID) -> HttpResponse:
    machine = machine_for(request.user, pk, Permission.MACHINE_OPERATE)
    form = EditForm(request.POST) if request.method == "POST" else EditForm.of(machine)
    if form.is_valid() and _edited(request, machine, form):
        messages.success(request, _("%(name)s has been changed.") % {"name": machine.name})
        return redirect("machines:detail", pk=machine.pk)
    context = {"machine": machine, "form": form}
    return render(request, "machines/edit.html", context, status=422 if form.errors else 200)


def _edited(request: HttpRequest, machine: Machine, form: EditForm) -> bool:
    data = form.cleaned_data
    try:
        editing.update_machine(
            machine,
            actor=person(request),
            name=data["name"],
            description=data["description"],
            labels=editing.labels_in(data["labels"]),
            protected=data["protected"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        _put_error(form, error)
        return False
    return True


@require_http_methods(["GET", "HEAD", "POST"])
def machine_key(request: HttpRequest, pk: UUID) -> HttpResponse:
    """A key to let in; the person's own stand there to choose from."""
    machine = machine_for(request.user, pk, Permission.MACHINE_SECRET)
    own = list(keys_of(request.user))
    initial = {"public_key": own[0].public_key if own else ""}
    form = KeyForm(request.POST) if request.method == "POST" else KeyForm(initial=initial)
    if form.is_valid():
        try:
            access.request_ssh_key(
                machine,
                actor=person(request),
                public_key=form.cleaned_data["public_key"],
                request_ip=client_ip(request),
            )
        except PortalError as error:
            _put_error(form, error)
        else:
            return redirect("machines:detail", pk=machine.pk)
    context = {"machine": machine, "form": form}
    return render(request, "machines/key.html", context, status=422 if form.errors else 200)


@require_POST
@never_cache
def machine_user_data(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The cloud-config that it was launched with. That it was looked at is written down first."""
    with transaction.atomic():
        machine, text = user_data_of(request.user, pk)
        audit.record(person(request), "machine.user_data", machine, request_ip=client_ip(request))
    template = "machines/_user_data.html" if is_live(request) else "machines/user_data.html"
    return render(request, template, {"machine": machine, "text": text})


def _put_error(form: forms.Form, error: PortalError) -> None:
    form.add_error(error.field if error.field in form.fields else None, str(error.message))
