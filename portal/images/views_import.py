"""An image from an address: an official one by name, or any other with its checksum."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from portal.accounts.http import client_ip, person
from portal.errors import ConflictError, ForbiddenError, InvalidError
from portal.images import services
from portal.images.forms import OTHER, ImportForm
from portal.images.models import Firmware, ImageVersion, Kind
from portal.images.official import OFFICIAL, Official
from portal.lib.units import format_bytes


@require_http_methods(["GET", "HEAD", "POST"])
def image_import(request: HttpRequest) -> HttpResponse:
    form = ImportForm(request.POST if request.method == "POST" else None, user=person(request))
    if not form.can_upload:
        raise ForbiddenError(_("You need to be a member or owner of a project to add images to it."))
    if form.is_valid():
        try:
            version = _add(request, form)
        except (InvalidError, ConflictError) as error:
            form.add_error(error.field if error.field in form.fields else None, str(error.message))
        else:
            messages.success(request, _("%(image)s is being fetched.") % {"image": version.image.title})
            return redirect("images:detail", pk=version.image_id)
    context = {
        "form": form,
        "checked": _titles(lambda one: one.is_checked),
        "unchecked": _titles(lambda one: one.is_signed and not one.is_checked),
        "unsigned": _titles(lambda one: not one.is_signed),
        "other": OTHER,
        "most": format_bytes(settings.IMAGE_MAX_UPLOAD_BYTES),
    }
    return render(request, "images/import.html", context, status=422 if form.errors else 200)


def _titles(wanted: Callable[[Official], bool]) -> str:
    """The makers of official images of which this is true."""
    return ", ".join(dict.fromkeys(one.maker_title for one in OFFICIAL.values() if wanted(one)))


def _add(request: HttpRequest, form: ImportForm) -> ImageVersion:
    """An official image's address, checksums, kind and firmware are ours to know, whatever else was typed."""
    official, data = form.official(), form.cleaned_data
    if official is not None:
        return services.add_from_url(
            actor=person(request),
            title=data["title"] or official.title,
            kind=Kind.SERVER,
            firmware=official.firmware,
            min_memory_mib=official.min_memory_mib,
            url=official.url,
            checksum=official.checksums_url,
            signing_key=official.signing_key,
            signature_url=official.signature_url,
            project=form.project(),
            request_key=data["request_key"],
            request_ip=client_ip(request),
        )
    return services.add_from_url(
        actor=person(request),
        title=data["title"],
        kind=Kind(data["kind"]),
        firmware=Firmware(data["firmware"]),
        url=data["url"],
        checksum=data["checksum"],
        signing_key=data["signing_key"],
        signature_url=data["signature_url"],
        project=form.project(),
        request_key=data["request_key"],
        request_ip=client_ip(request),
    )
