"""The audit trail, for operators."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from portal.audit.selectors import find_events
from portal.audit.words import AREAS, lines_of
from portal.errors import NotFoundError
from portal.lib.paging import page_of, text_of


@require_safe
def event_list(request: HttpRequest) -> HttpResponse:
    if not (request.user.is_active and request.user.is_staff):
        raise NotFoundError
    search, area = text_of(request, "q"), text_of(request, "area")
    page = page_of(request, find_events(search=search, area=area), per_page=100)
    context = {
        "page": page,
        "lines": lines_of(page),
        "areas": AREAS,
        "search": search,
        "area": area,
    }
    return render(request, "audit/list.html", context)
