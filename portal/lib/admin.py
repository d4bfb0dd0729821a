"""What the pages of Django's admin have in common. It is the last resort, never the only way: it shows rows."""

from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from unfold.admin import ModelAdmin as UnfoldAdmin
from unfold.admin import TabularInline

from portal.errors import NotFoundError


@login_not_required
def sign_in(request: HttpRequest) -> HttpResponse:
    """In place of the admin's own sign-in page, which knows no limit on guesses: the portal's, or nothing at all."""
    if request.user.is_authenticated:
        raise NotFoundError
    return redirect_to_login(reverse("admin:index"))


def _is_operator(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_staff)


class ModelAdmin(UnfoldAdmin):  # type: ignore[misc]  # Unfold has no annotations.
    """Operators may look at, add and change rows; only administrators delete them.

    Django's own permissions by model are not used: in Casement a role is a set of permissions, and an operator is one.
    """

    list_per_page = 50
    show_full_result_count = False

    def has_module_permission(self, request: HttpRequest) -> bool:
        return _is_operator(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_operator(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return _is_operator(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_operator(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_operator(request) and request.user.is_superuser


class ReadOnlyAdmin(ModelAdmin):
    """For rows that have real things behind them (a machine, a file, a piece of history): looked at, never written.

    To change or delete one here would leave a machine without its row, or a history that lies. The portal's own pages
    do it properly.
    """

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class LookedAtInline(TabularInline):  # type: ignore[misc]  # Unfold has no annotations.
    """Rows that belong to the one above them, never written here."""

    extra = 0
    can_delete = False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_operator(request)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
