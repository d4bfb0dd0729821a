"""A machine's small picture."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import http_date
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from portal.accounts.permissions import Permission
from portal.console.thumbnails import look_at
from portal.machines.selectors import machine_for

# One pixel that lets through what is drawn below it: an <img> without a script shows no broken picture.
BLANK = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")


@require_safe
@never_cache
def thumbnail(request: HttpRequest, pk: UUID) -> HttpResponseBase:
    """The picture as it is now; a blank one when there is none, with 202 while the first is being taken.

    Browsers must not keep it: the next person at the same browser may have no right to see it. So that an unchanged
    picture is not sent again all the same, static/js/base/thumbnails.js remembers the ETag by itself.
    """
    machine = machine_for(request.user, pk, Permission.MACHINE_CONSOLE_VIEW)
    look = look_at(machine)
    found = look.thumbnail
    if found is None:
        return HttpResponse(BLANK, content_type="image/gif", status=202 if look.is_coming else 200)
    taken, etag = int(found.taken_at.timestamp()), f'"{found.etag}"'
    headers = {"ETag": etag, "Last-Modified": http_date(taken)}
    response = HttpResponse(found.data, content_type="image/webp", headers=headers)
    return get_conditional_response(request, etag=etag, last_modified=taken, response=response) or response
