"""One's own SSH keys."""

from __future__ import annotations

from dataclasses import dataclass

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts import services
from portal.accounts.forms import KeyDeleteForm, KeyForm
from portal.accounts.http import client_ip, person
from portal.accounts.models import SshKey
from portal.accounts.selectors import key_for, keys_of
from portal.errors import NotFoundError, PortalError
from portal.lib.ssh import key_fingerprint


@dataclass(frozen=True, slots=True)
class KeyRow:
    key: SshKey
    kind: str
    fingerprint: str


@require_http_methods(["GET", "HEAD", "POST"])
def key_list(request: HttpRequest) -> HttpResponse:
    form = KeyForm(request.POST) if request.method == "POST" else KeyForm()
    user = person(request)
    if form.is_valid():
        try:
            key = services.add_key(
                user,
                actor=user,
                public_key=form.cleaned_data["public_key"],
                name=form.cleaned_data["name"],
                request_ip=client_ip(request),
            )
        except PortalError as error:
            _put_error(form, error)
        else:
            messages.success(request, _("The key “%(name)s” has been added.") % {"name": key.name})
            return redirect("accounts:keys")
    rows = [
        KeyRow(key, key.public_key.split(maxsplit=1)[0].removeprefix("ssh-"), key_fingerprint(key.public_key))
        for key in keys_of(user)
    ]
    return render(request, "accounts/keys.html", {"rows": rows, "form": form}, status=422 if form.errors else 200)


@require_POST
def key_delete(request: HttpRequest) -> HttpResponse:
    form = KeyDeleteForm(request.POST)
    if not form.is_valid():
        raise NotFoundError
    key = key_for(request.user, form.cleaned_data["key"])
    services.delete_key(key, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("The key “%(name)s” has been deleted.") % {"name": key.name})
    return redirect("accounts:keys")


def _put_error(form: forms.Form, error: PortalError) -> None:
    form.add_error(error.field if error.field in form.fields else None, str(error.message))
