"""Projects as pages: who is in them, what they may use and do use, and what happened in them.

The rows are those of `portal.accounts`; the pages stand above the other apps because they show machines, images and
activity beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts import services
from portal.accounts.forms import ABILITY_TABLE, ROLE_CHOICES, BinForm, LimitsForm, MemberForm, ProjectForm, RoleForm
from portal.accounts.http import client_ip, is_live, operators_only, person
from portal.accounts.models import Membership, Project
from portal.accounts.permissions import Permission, Role
from portal.accounts.selectors import (
    QuotaLine,
    members_of,
    membership_for,
    permissions_in,
    project_for,
    project_rows,
    quota_lines,
    roles_of,
)
from portal.audit.selectors import events_in
from portal.audit.words import lines_of
from portal.errors import PortalError
from portal.images.selectors import images_of
from portal.lib.paging import page_of, text_of
from portal.machines.selectors import machines_counted_in
from portal.snapshots.selectors import snapshots_counted_in
from portal.volumes.selectors import volumes_counted_in


@dataclass(frozen=True, slots=True)
class ProjectRow:
    project: Project
    role: Role | None
    quota: list[QuotaLine]


@require_safe
def project_list(request: HttpRequest) -> HttpResponse:
    search = text_of(request, "q")
    projects = project_rows(request.user)
    if search:
        projects = projects.filter(name__icontains=search)
    page = page_of(request, projects, per_page=24)
    roles = roles_of(request.user)
    rows = [ProjectRow(project, roles.get(project.pk), quota_lines(project)) for project in page]
    context = {"page": page, "rows": rows, "search": search, "can_create": request.user.is_staff}
    template = "accounts/_projects.html" if is_live(request) else "accounts/projects.html"
    return render(request, template, context)


@require_safe
def project_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _project_page(request, project_for(request.user, pk))


@require_http_methods(["GET", "HEAD", "POST"])
@operators_only
def project_new(request: HttpRequest) -> HttpResponse:
    form = ProjectForm(request.POST) if request.method == "POST" else ProjectForm()
    if form.is_valid():
        try:
            project = services.create_project(
                form.cleaned_data["name"],
                actor=person(request),
                limits=form.limits(),
                description=form.cleaned_data["description"],
                owner=form.cleaned_data["owner"],
                request_ip=client_ip(request),
            )
        except PortalError as error:
            _put_error(form, error)
        else:
            messages.success(request, _("Project %(name)s is there.") % {"name": project.name})
            return redirect("accounts:project", pk=project.pk)
    return render(request, "accounts/project_new.html", {"form": form}, status=422 if form.errors else 200)


@require_POST
@operators_only
def project_quota(request: HttpRequest, pk: UUID) -> HttpResponse:
    project = project_for(request.user, pk)
    form = LimitsForm(request.POST)
    if not form.is_valid():
        return _project_page(request, project, limits_form=form, status=422)
    services.update_quota(project, actor=person(request), limits=form.limits(), request_ip=client_ip(request))
    messages.success(request, _("The quota has been changed."))
    return redirect("accounts:project", pk=project.pk)


@require_POST
def project_bin(request: HttpRequest, pk: UUID) -> HttpResponse:
    project = project_for(request.user, pk, Permission.PROJECT_MANAGE)
    form = BinForm(request.POST)
    if not form.is_valid():
        return _project_page(request, project, bin_form=form, status=422)
    days = form.cleaned_data["bin_days"]
    services.set_bin_days(project, actor=person(request), days=days, request_ip=client_ip(request))
    messages.success(request, _("The days in the bin have been changed."))
    return redirect("accounts:project", pk=project.pk)


# --- members ------------------------------------------------------------------------------------------------------


@require_POST
def project_people(request: HttpRequest, pk: UUID) -> HttpResponse:
    project = project_for(request.user, pk, Permission.PROJECT_MANAGE)
    form = MemberForm(request.POST)
    if form.is_valid():
        try:
            membership = services.add_member(
                project,
                actor=person(request),
                person=form.cleaned_data["person"],
                role=Role(form.cleaned_data["role"]),
                request_ip=client_ip(request),
            )
        except PortalError as error:
            _put_error(form, error)
        else:
            messages.success(
                request,
                _("%(person)s is in the project now: %(role)s.")
                % {"person": membership.user.get_username(), "role": membership.get_role_display()},
            )
            return redirect("accounts:project", pk=project.pk)
    return _project_page(request, project, member_form=form, status=422)


@require_POST
def member_role(request: HttpRequest, pk: int) -> HttpResponse:
    membership = membership_for(request.user, pk)
    form = RoleForm(request.POST)
    if not form.is_valid():
        return _refused(request, membership, _("There is no such role."), status=422)
    try:
        services.change_role(
            membership,
            actor=person(request),
            role=Role(form.cleaned_data["role"]),
            request_ip=client_ip(request),
        )
    except PortalError as error:
        return _refused(request, membership, str(error.message), status=error.status)
    membership.refresh_from_db()
    messages.success(
        request,
        _("%(person)s is now: %(role)s.")
        % {"person": membership.user.get_username(), "role": membership.get_role_display()},
    )
    # Owners who made themselves a member, or less, stay on the page: they still see it.
    return redirect("accounts:project", pk=membership.project_id)


@require_http_methods(["GET", "HEAD", "POST"])
def member_remove(request: HttpRequest, pk: int) -> HttpResponse:
    """First what it means, in words; then, by POST, it is done."""
    membership = membership_for(request.user, pk)
    if request.method != "POST":
        machines = machines_counted_in(membership.project).filter(owner=membership.user).count()
        context = {
            "membership": membership,
            "project": membership.project,
            "machine_count": machines,
            "is_self": membership.user_id == request.user.pk,
        }
        template = "accounts/_member_remove.html" if is_live(request) else "accounts/member_remove.html"
        return render(request, template, context)
    try:
        services.remove_member(membership, actor=person(request), request_ip=client_ip(request))
    except PortalError as error:
        return _refused(request, membership, str(error.message), status=error.status)
    messages.success(request, _("%(person)s is no longer in the project.") % {"person": membership.user.get_username()})
    if membership.user_id == request.user.pk and not request.user.is_staff:
        return redirect("accounts:projects")  # The project is not theirs to see any more.
    return redirect("accounts:project", pk=membership.project_id)


# --- helpers ------------------------------------------------------------------------------------------------------


def _project_page(
    request: HttpRequest,
    project: Project,
    *,
    member_form: MemberForm | None = None,
    limits_form: LimitsForm | None = None,
    bin_form: BinForm | None = None,
    wrong_member: Membership | None = None,
    wrong_text: str = "",
    status: int = 200,
) -> HttpResponse:
    granted = permissions_in(request.user, project.pk)
    members = list(members_of(project))
    context = {
        "project": project,
        "quota": quota_lines(project),
        "members": members,
        "last_owner": _last_owner(members),
        "roles": ROLE_CHOICES,
        "abilities": ABILITY_TABLE,
        "machines": list(machines_counted_in(project)[:200]),
        "volumes": volumes_counted_in(project),
        "snapshots": snapshots_counted_in(project),
        "images": list(images_of(project)),
        "activity": lines_of(events_in(project.pk, limit=30)),
        "can_launch": Permission.MACHINE_CREATE in granted,
        "can_manage": Permission.PROJECT_MANAGE in granted,
        "can_upload": Permission.IMAGE_CREATE in granted,
        "can_set_quota": request.user.is_staff,
        "member_form": member_form or MemberForm(),
        "limits_form": limits_form or LimitsForm.of(project),
        "bin_form": bin_form or BinForm(initial={"bin_days": project.bin_days}),
        "wrong_member": wrong_member,
        "wrong_text": wrong_text,
    }
    template = "accounts/_project.html" if is_live(request) and request.method == "GET" else "accounts/project.html"
    return render(request, template, context, status=status)


def _last_owner(members: list[Membership]) -> int | None:
    """The membership that cannot be given up: of the only owner who can sign in. None if there are several, or none."""
    owners = [member.pk for member in members if member.role == Role.OWNER and member.user.is_active]
    return owners[0] if len(owners) == 1 else None


def _refused(request: HttpRequest, membership: Membership, text: str, *, status: int) -> HttpResponse:
    """The project's page with the refusal at the member it is about."""
    project = project_for(request.user, membership.project_id)
    return _project_page(request, project, wrong_member=membership, wrong_text=text, status=status)


def _put_error(form: forms.Form, error: PortalError) -> None:
    form.add_error(error.field if error.field in form.fields else None, str(error.message))
