from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.http import HttpRequest
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from portal.accounts.models import ApiToken, Membership, Project, SshKey, User
from portal.lib.admin import LookedAtInline, ModelAdmin, ReadOnlyAdmin

admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]  # Generic for mypy alone, not when it runs.
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser")
    search_fields = ("username", "email", "first_name", "last_name")
    readonly_fields = ("last_login", "date_joined")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str] | tuple[Any, ...]:
        """Only administrators make operators and administrators: an operator would otherwise raise themselves."""
        fields = super().get_readonly_fields(request, obj)
        if request.user.is_superuser:
            return fields
        return [*fields, "is_staff", "is_superuser", "groups", "user_permissions"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may set a password can sign in as that person, so operators change people below them alone."""
        above = obj is not None and (obj.is_staff or obj.is_superuser) and not request.user.is_superuser
        return not above and ModelAdmin.has_change_permission(self, request, obj)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ReadOnlyAdmin):
    """Django's groups grant nothing in Casement; roles in projects do."""


class MembershipInline(LookedAtInline):
    """The project's page changes members: it knows the last owner, and writes it down."""

    model = Membership
    fields = ("user", "role")


@admin.register(Project)
class ProjectAdmin(ReadOnlyAdmin):
    list_display = ("name", "used_machines", "max_machines", "used_vcpus", "max_vcpus", "created_at")
    search_fields = ("name", "description", "memberships__user__username")
    inlines = (MembershipInline,)


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    list_display = ("user", "project", "role")
    list_filter = ("role",)
    list_select_related = ("user", "project")
    search_fields = ("user__username", "user__email", "project__name")


@admin.register(SshKey)
class SshKeyAdmin(ReadOnlyAdmin):
    list_display = ("name", "user", "used_at")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    list_display = ("name", "user", "hint", "scope", "project", "expires_at", "used_at")
    list_filter = ("scope",)
    search_fields = ("name", "user__username", "hint")
    fields = ("name", "user", "hint", "scope", "project", "created_at", "expires_at", "used_at", "used_ip")
