"""Uploads in pieces, by the tus protocol (https://tus.io, version 1.0.0): creation, expiration, termination.

A page's script sends a file piece by piece. When the line breaks, the page is loaded anew or the web process restarts,
it asks by HEAD how much has arrived, and goes on there.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, Final, ParamSpec
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import http_date
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts.http import person
from portal.errors import InvalidError, PortalError
from portal.uploads import services
from portal.uploads.models import Upload
from portal.uploads.selectors import upload_for

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]

VERSION: Final = "1.0.0"
PIECE_TYPE: Final = "application/offset+octet-stream"
_MOST_DIGITS: Final = 16


def speaks_tus(view: View[P]) -> View[P]:
    """Every answer says the version, and what went wrong is JSON: no person reads these."""

    @wraps(view)
    def answered(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        response = _answer(view, request, *args, **kwargs)
        response["Tus-Resumable"] = VERSION
        response["Cache-Control"] = "no-store"
        return response

    return answered


def _answer(view: View[P], request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
    if request.headers.get("Tus-Resumable", VERSION) != VERSION:
        return HttpResponse(status=412, headers={"Tus-Version": VERSION})
    try:
        return view(request, *args, **kwargs)
    except PortalError as error:
        return JsonResponse({"code": error.code, "message": str(error.message)}, status=error.status)


@require_POST
@speaks_tus
def upload_new(request: HttpRequest) -> HttpResponse:
    upload = services.begin(
        person(request),
        name=_name_in(request.headers.get("Upload-Metadata", "")),
        size_bytes=_number(request, "Upload-Length"),
    )
    address = reverse("uploads:one", args=[upload.pk])
    return HttpResponse(status=201, headers={"Location": address, "Upload-Offset": "0", **_expires(upload)})


@require_http_methods(["HEAD", "PATCH", "DELETE"])
@speaks_tus
def upload_one(request: HttpRequest, pk: UUID) -> HttpResponse:
    upload = upload_for(person(request), pk)
    if request.method == "HEAD":
        sizes = {"Upload-Offset": str(upload.offset), "Upload-Length": str(upload.size_bytes)}
        return HttpResponse(headers=sizes | _expires(upload))
    if request.method == "DELETE":
        services.throw_away(upload)
        return HttpResponse(status=204)
    if request.content_type != PIECE_TYPE:
        return HttpResponse(status=415)
    length = _number(request, "Content-Length")
    offset = services.add(upload, request, offset=_number(request, "Upload-Offset"), length=length)
    return HttpResponse(status=204, headers={"Upload-Offset": str(offset), **_expires(upload)})


@require_POST
def upload_discard(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The same as DELETE, for a button on a page."""
    services.throw_away(upload_for(person(request), pk))
    back = request.POST.get("back")
    return redirect(back if back in {"images:upload", "isos:upload"} else "isos:upload")


def _expires(upload: Upload) -> dict[str, str]:
    end = upload.touched_at + dt.timedelta(hours=settings.UPLOADS_KEEP_HOURS)
    return {"Upload-Expires": http_date(end.timestamp())}


def _name_in(metadata: str) -> str:
    """`filename` of the metadata: words and base64 values, separated by commas. Whatever else is there is ignored."""
    for pair in metadata.split(","):
        word, _space, value = pair.strip().partition(" ")
        if word == "filename":
            try:
                return base64.b64decode(value, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError) as error:
                raise InvalidError(_("The file's name cannot be read.")) from error
    return ""


def _number(request: HttpRequest, header: str) -> int:
    text = request.headers.get(header, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise InvalidError(_("The header %(name)s is no number.") % {"name": header})
    return int(text)
