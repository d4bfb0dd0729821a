"""Pages of a list. A page that does not exist shows the nearest one: links to lists grow old."""

from typing import TypeVar

from django.core.paginator import Page, Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest

M = TypeVar("M", bound=Model)


def page_of(request: HttpRequest, rows: QuerySet[M], *, per_page: int = 50) -> Page[M]:
    """The page that the address names with `?page=`: three queries, for the number of rows, the page's keys, its rows.

    Keys come first because sorting and skipping then carry no joined columns along. On tens of thousands of rows that
    is the greater part of a far page's time, on SQLite most of all.
    """
    page = Paginator(rows, per_page).get_page(request.GET.get("page"))
    first = (page.number - 1) * per_page
    keys = list(rows.values_list("pk", flat=True)[first : first + per_page])
    page.object_list = rows.filter(pk__in=keys)
    return page


def text_of(request: HttpRequest, name: str, *, most: int = 100) -> str:
    """A filter from the address. NUL bytes go: PostgreSQL refuses them."""
    return request.GET.get(name, "").replace("\x00", "").strip()[:most]
