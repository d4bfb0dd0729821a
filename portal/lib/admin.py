"""What the pages of Django's admin have in common. It is the last resort, never the only way: it shows rows."""

from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from unfold.admin import ModelAdmin as UnfoldAdmin


class ModelAdmin(UnfoldAdmin):  # type: ignore[misc]  # Unfold has no annotations.
    """Rows by the page, without counting what the filters leave out."""

    list_per_page = 50
    show_full_result_count = False
    list_filter_submit = False


class ReadOnlyAdmin(ModelAdmin):
    """For rows that have real things behind them (a machine, a file, a piece of history): looked at, never written.

    To change or delete one here would leave a machine without its row, or a history that lies. The portal's own pages
    do it properly.
    """

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
