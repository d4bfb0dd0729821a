"""Pools of desktops. All of it is for operators; what people do with their desktops is in `desktops`."""

import datetime as dt
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from django.contrib.auth.models import Group
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Query
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip
from portal.accounts.models import User
from portal.accounts.selectors import project_for
from portal.accounts.services import person_named
from portal.api.core import Guard, operation
from portal.api.operations.desktops import DesktopSessionOut, Kind
from portal.api.operations.machines import flavour_named
from portal.api.operations.parts import operators_only
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import Input, Named, Text, spelled_out
from portal.errors import InvalidError
from portal.images.models import ImageVersion
from portal.images.selectors import version_for
from portal.pools import broker, services
from portal.pools.models import Desktop, Entitlement, Place, Pool, SpareHours
from portal.pools.selectors import (
    desktop_for,
    desktops_of,
    entitlement_for,
    entitlements_of,
    line_of,
    managed_pool,
    managed_pools,
    pool_page,
    sessions_in,
)
from portal.pools.services import MOST_DESKTOPS, MOST_MESSAGE, MOST_PER_PERSON, MOST_SECONDS, Hours
from portal.pools.states import DesktopState, PoolKind, Recompose

TAG: Final = "Pools"
DeskState = Annotated[DesktopState, spelled_out(DesktopState)]
How = Annotated[Recompose, spelled_out(Recompose)]
Number = Annotated[int, Field(ge=0, le=MOST_DESKTOPS)]
Seconds = Annotated[int, Field(ge=0, le=MOST_SECONDS)]
MOST_NOTICE_S: Final = 24 * 3600
MOST_HOURS: Final = 7 * 24 * 4


class VersionNamed(BaseModel):
    id: UUID
    image: str
    number: int

    @classmethod
    def of(cls, version: ImageVersion | None) -> Self | None:
        return cls(id=version.pk, image=version.image.slug, number=version.number) if version else None


class PoolOut(BaseModel):
    """A pool's settings. The times are seconds, 0 for never: `idle_disconnect_s` counts from the warning,
    `idle_sign_out_s` from the disconnect. `problem` is why no more desktops can be made just now."""

    id: UUID
    name: str
    title: str
    kind: Kind
    project: Named
    image_version: VersionNamed | None
    previous_version: VersionNamed | None
    next_version: VersionNamed | None
    flavour: str
    minimum: int
    maximum: int
    spare: int
    time_zone: str
    name_pattern: str
    desktops_per_person: int
    keeps_files: bool
    enabled: bool
    maintenance: bool
    message: str
    idle_warn_s: int
    idle_disconnect_s: int
    idle_sign_out_s: int
    limit_s: int
    recompose: How
    recompose_at: dt.datetime | None
    problem: str
    created_at: dt.datetime

    @classmethod
    def of(cls, pool: Pool) -> Self:
        plain = {name: getattr(pool, name) for name in _PLAIN}
        return cls(
            id=pool.pk,
            kind=PoolKind(pool.kind),
            project=Named(id=pool.project_id, name=pool.project.name),
            image_version=VersionNamed.of(pool.image_version),
            previous_version=VersionNamed.of(pool.previous_version),
            next_version=VersionNamed.of(pool.next_version),
            flavour=pool.flavour.name,
            recompose=Recompose(pool.recompose),
            **plain,
        )


_PLAIN: Final = (
    *("name", "title", "minimum", "maximum", "spare", "time_zone", "name_pattern", "desktops_per_person"),
    *("keeps_files", "enabled"),
    *("maintenance", "message", "idle_warn_s", "idle_disconnect_s", "idle_sign_out_s", "limit_s", "recompose_at"),
    *("problem", "created_at"),
)
OF_ONE: Final = (
    *("show_pool", "change_pool", "show_pool_now", "list_pool_desktops", "list_pool_sessions", "list_pool_line"),
    *("list_entitlements", "list_pool_hours", "set_maintenance", "message_pool", "sign_off_pool", "delete_pool"),
)


@operation(
    "GET",
    "pools",
    tag=TAG,
    answers=Listed[PoolOut],
    pages=("pools:list",),
    links={name: {"pk": "items/0/id"} for name in OF_ONE},
)
def list_pools(
    request: HttpRequest,
    *,
    page: Query[PageQuery],
    q: Text = "",
    name: Text = "",
    kind: Kind | None = None,
    sort: Literal["name", "-name", "created_at", "-created_at"] = "name",
) -> Listed[PoolOut]:
    """Pools. `q` looks in their names, `name` is one whole short name."""
    pools = managed_pools(operators_only(request))
    if q:
        pools = pools.filter(title__icontains=q) | pools.filter(name__icontains=q)
    if name:
        pools = pools.filter(name=name)
    if kind:
        pools = pools.filter(kind=kind)
    return page_of(pools, page, sort).shown(PoolOut.of)


@operation("GET", "pools/{uuid:pk}", tag=TAG, answers=PoolOut, pages=("pools:detail",))
def show_pool(request: HttpRequest, pk: UUID) -> PoolOut:
    """One pool's settings."""
    return PoolOut.of(managed_pool(operators_only(request), pk))


GUARD: Final = Guard(Pool, show_pool)


class SettingsIn(Input):
    """What is left out, or null, stays as it is; of a new pool it is what is usual."""

    title: Text | None = Field(default=None, max_length=100)
    flavour: Text | None = Field(default=None, max_length=40, description="A size, by its name.")
    minimum: Number | None = None
    maximum: Number | None = None
    spare: Number | None = None
    time_zone: Text | None = Field(default=None, max_length=60, description="Such as Europe/Berlin.")
    name_pattern: Text | None = Field(default=None, max_length=50, description="With {n}, the number.")
    desktops_per_person: int | None = Field(default=None, ge=1, le=MOST_PER_PERSON)
    keeps_files: bool | None = Field(default=None, description="People's own files are brought to their desktop.")
    enabled: bool | None = None
    idle_warn_s: Seconds | None = None
    idle_disconnect_s: Seconds | None = None
    idle_sign_out_s: Seconds | None = None
    limit_s: Seconds | None = None

    def given(self) -> dict[str, Any]:
        """Those of services.SETTINGS that were sent."""
        sent = self.model_dump(exclude_none=True)
        return {name: value for name, value in sent.items() if name in services.SETTINGS}


class PoolIn(SettingsIn):
    name: Text = Field(max_length=40, description="Lower-case letters, digits and hyphens. It stands in addresses.")
    kind: Kind = PoolKind.FLOATING
    project: UUID
    image_version: UUID
    flavour: Text = Field(max_length=40, description="A size, by its name.")


@operation(
    "POST",
    "pools",
    tag=TAG,
    answers=PoolOut,
    status=201,
    pages=("pools:new",),
    links={name: {"pk": "id"} for name in OF_ONE},
)
def create_pool(request: HttpRequest, body: PoolIn) -> PoolOut:
    """Make a pool. Its first desktops are built within a minute; say then who may use it."""
    user = operators_only(request)
    pool = services.create_pool(
        body.name,
        actor=user,
        project=project_for(user, body.project),
        image_version=version_for(user, body.image_version),
        flavour=flavour_named(body.flavour),
        kind=body.kind,
        request_ip=client_ip(request),
        **body.given(),
    )
    return show_pool(request, pool.pk)


@operation("PATCH", "pools/{uuid:pk}", tag=TAG, answers=PoolOut, pages=("pools:edit",), guards=GUARD)
def change_pool(request: HttpRequest, pk: UUID, body: SettingsIn) -> PoolOut:
    """Change settings of a pool. Another size is what new desktops have."""
    user = operators_only(request)
    services.change_pool(
        managed_pool(user, pk),
        actor=user,
        flavour=flavour_named(body.flavour) if body.flavour else None,
        request_ip=client_ip(request),
        **body.given(),
    )
    return show_pool(request, pk)


@operation("POST", "pools/{uuid:pk}/empty", tag=TAG, answers=PoolOut, pages=("pools:empty",), guards=GUARD)
def empty_pool(request: HttpRequest, pk: UUID) -> PoolOut:
    """Before it is deleted: it is not offered any more, everybody is signed off, and all its desktops are deleted."""
    user = operators_only(request)
    services.empty_pool(managed_pool(user, pk), actor=user, request_ip=client_ip(request))
    return show_pool(request, pk)


@operation("DELETE", "pools/{uuid:pk}", tag=TAG, status=204, pages=("pools:delete",), guards=GUARD)
def delete_pool(request: HttpRequest, pk: UUID) -> None:
    """Delete a pool that has no desktops."""
    user = operators_only(request)
    services.delete_pool(managed_pool(user, pk), actor=user, request_ip=client_ip(request))


# --- as it is now ---------------------------------------------------------------------------------------------------


class FailureOut(BaseModel):
    desktop: str
    at: dt.datetime
    error: str
    retry_at: dt.datetime | None


class PoolNowOut(BaseModel):
    """A pool at this moment. `spare` are free ones that are there, `spare_planned` what the hours ask for now; `old`
    have another version than the pool's. Times to the screen are of the last day's sessions, in seconds. Of the memory,
    `memory_mib` is promised, `memory_own_mib` really taken by the desktops, `memory_shared_mib` what they have in
    common."""

    desktops: dict[str, int]
    total: int
    spare: int
    spare_planned: int
    old: int
    sessions: int
    disconnected: int
    waiting: int
    screen_p50_s: float | None
    screen_p95_s: float | None
    memory_mib: int
    memory_own_mib: int | None
    memory_shared_mib: int | None
    failures: list[FailureOut]


@operation("GET", "pools/{uuid:pk}/now", tag=TAG, answers=PoolNowOut, pages=("pools:detail",))
def show_pool_now(request: HttpRequest, pk: UUID) -> PoolNowOut:
    """Desktops by state, sessions, who waits, how long people took to their screen, and what failed and why."""
    page = pool_page(managed_pool(operators_only(request), pk))
    shown = {name: getattr(page, name) for name in PoolNowOut.model_fields if name != "failures"}
    failures = [FailureOut(desktop=f.desktop, at=f.at, error=f.error, retry_at=f.retry_at) for f in page.failures]
    return PoolNowOut(**shown, failures=failures)


class DesktopOut(BaseModel):
    """One place of a pool, with the machine that is in it now."""

    id: UUID
    name: str
    number: int
    state: DeskState
    state_since: dt.datetime
    person: str | None
    machine: Named | None
    image_version: VersionNamed | None
    error: str

    @classmethod
    def of(cls, desktop: Desktop) -> Self:
        machine = desktop.machine
        return cls(
            id=desktop.pk,
            name=str(desktop),
            number=desktop.number,
            state=DesktopState(desktop.state),
            state_since=desktop.state_since,
            person=desktop.person.get_username() if desktop.person else None,
            machine=Named(id=machine.pk, name=machine.name) if machine else None,
            image_version=VersionNamed.of(desktop.image_version),
            error=desktop.error,
        )


@operation(
    "GET",
    "pools/{uuid:pk}/desktops",
    tag=TAG,
    answers=Listed[DesktopOut],
    pages=("pools:detail",),
    links={"recycle_desktop": {"pk": "items/0/id"}},
)
def list_pool_desktops(
    request: HttpRequest,
    pk: UUID,
    *,
    page: Query[PageQuery],
    state: DeskState | None = None,
    sort: Literal["number", "-number"] = "number",
) -> Listed[DesktopOut]:
    """A pool's desktops."""
    pool = managed_pool(operators_only(request), pk)
    return page_of(desktops_of(pool, state=state or ""), page, sort).shown(DesktopOut.of)


def show_desktop(request: HttpRequest, pk: UUID) -> DesktopOut:
    return DesktopOut.of(desktop_for(operators_only(request), pk))


@operation(
    "POST",
    "pools/desktops/{uuid:pk}/recycle",
    tag=TAG,
    answers=DesktopOut,
    pages=("pools:desktop-recycle",),
    guards=Guard(Desktop, show_desktop),
)
def recycle_desktop(request: HttpRequest, pk: UUID) -> DesktopOut:
    """Have a desktop made new. Who is on it is signed off."""
    user = operators_only(request)
    broker.recycle(desktop_for(user, pk), actor=user, request_ip=client_ip(request))
    return show_desktop(request, pk)


@operation("GET", "pools/{uuid:pk}/sessions", tag=TAG, answers=Listed[DesktopSessionOut], pages=("pools:detail",))
def list_pool_sessions(
    request: HttpRequest,
    pk: UUID,
    *,
    page: Query[PageQuery],
    sort: Literal["-started_at", "started_at"] = "-started_at",
) -> Listed[DesktopSessionOut]:
    """Who is on a desktop of a pool now."""
    pool = managed_pool(operators_only(request), pk)
    return page_of(sessions_in(pool), page, sort).shown(DesktopSessionOut.of)


class WaitingOut(BaseModel):
    person: str
    asked_at: dt.datetime

    @classmethod
    def of(cls, place: Place) -> Self:
        return cls(person=place.person.get_username(), asked_at=place.asked_at)


@operation("GET", "pools/{uuid:pk}/line", tag=TAG, answers=Listed[WaitingOut], pages=("pools:detail",))
def list_pool_line(
    request: HttpRequest, pk: UUID, *, page: Query[PageQuery], sort: Literal["asked_at"] = "asked_at"
) -> Listed[WaitingOut]:
    """Who waits for a desktop of a pool, in order."""
    pool = managed_pool(operators_only(request), pk)
    return page_of(line_of(pool), page, sort).shown(WaitingOut.of)


# --- all at once ----------------------------------------------------------------------------------------------------


class MaintenanceIn(Input):
    on: bool


@operation("POST", "pools/{uuid:pk}/maintenance", tag=TAG, answers=PoolOut, pages=("pools:maintenance",), guards=GUARD)
def set_maintenance(request: HttpRequest, pk: UUID, body: MaintenanceIn) -> PoolOut:
    """While it is on, nobody new gets a desktop; who has one keeps it."""
    user = operators_only(request)
    services.set_maintenance(managed_pool(user, pk), actor=user, on=body.on, request_ip=client_ip(request))
    return show_pool(request, pk)


class MessageIn(Input):
    text: Text = Field(default="", max_length=MOST_MESSAGE, description="Left empty, it is taken away.")


@operation("POST", "pools/{uuid:pk}/message", tag=TAG, answers=PoolOut, pages=("pools:message",), guards=GUARD)
def message_pool(request: HttpRequest, pk: UUID, body: MessageIn) -> PoolOut:
    """A line on the screens of all who are on a desktop of the pool, or wait for one."""
    user = operators_only(request)
    services.send_message(managed_pool(user, pk), actor=user, text=body.text, request_ip=client_ip(request))
    return show_pool(request, pk)


class SignedOffOut(BaseModel):
    signed_off: int


@operation("POST", "pools/{uuid:pk}/sign-off", tag=TAG, answers=SignedOffOut, pages=("pools:sign-off",), guards=GUARD)
def sign_off_pool(request: HttpRequest, pk: UUID) -> SignedOffOut:
    """Sign everybody off. What they have not saved is lost. One person's session: DELETE /desktop-sessions/…"""
    user = operators_only(request)
    count = services.sign_off_all(managed_pool(user, pk), actor=user, request_ip=client_ip(request))
    return SignedOffOut(signed_off=count)


# --- versions -------------------------------------------------------------------------------------------------------


class RecomposeIn(Input):
    image_version: UUID
    how: How = Recompose.ROLLING
    at: dt.datetime | None = Field(default=None, description="With its zone; for `at_time`.")
    notice_s: int = Field(default=300, ge=0, le=MOST_NOTICE_S, description="For `at_once`: so long until signed out.")
    message: Text = Field(default="", max_length=MOST_MESSAGE)


@operation("POST", "pools/{uuid:pk}/recompose", tag=TAG, answers=PoolOut, pages=("pools:recompose",), guards=GUARD)
def recompose_pool(request: HttpRequest, pk: UUID, body: RecomposeIn) -> PoolOut:
    """Bring a pool to another image version: each desktop when it is free, all at once with notice, or at a time."""
    user = operators_only(request)
    if body.at is not None and body.at.tzinfo is None:
        raise InvalidError(_("Say in which time zone."), field="at")
    services.recompose(
        managed_pool(user, pk),
        actor=user,
        image_version=version_for(user, body.image_version),
        how=body.how,
        at=body.at,
        notice=dt.timedelta(seconds=body.notice_s),
        message=body.message,
        request_ip=client_ip(request),
    )
    return show_pool(request, pk)


@operation(
    "DELETE", "pools/{uuid:pk}/recompose", tag=TAG, answers=PoolOut, pages=("pools:recompose-cancel",), guards=GUARD
)
def cancel_recompose(request: HttpRequest, pk: UUID) -> PoolOut:
    """Call off what was to come, or the signing out of who is on an older version."""
    user = operators_only(request)
    services.cancel_recompose(managed_pool(user, pk), actor=user, request_ip=client_ip(request))
    return show_pool(request, pk)


class BackIn(Input):
    how: How = Recompose.ROLLING


@operation("POST", "pools/{uuid:pk}/back", tag=TAG, answers=PoolOut, pages=("pools:back",), guards=GUARD)
def pool_back(request: HttpRequest, pk: UUID, body: BackIn) -> PoolOut:
    """Back to the image version before, in one step. Once more, and it is the newer one again."""
    user = operators_only(request)
    services.back_to_previous(managed_pool(user, pk), actor=user, how=body.how, request_ip=client_ip(request))
    return show_pool(request, pk)


# --- who and when ---------------------------------------------------------------------------------------------------


class EntitlementOut(BaseModel):
    """Exactly one of person, project and group."""

    id: int
    person: str | None
    project: Named | None
    group: str | None

    @classmethod
    def of(cls, one: Entitlement) -> Self:
        return cls(
            id=one.pk,
            person=one.user.get_username() if one.user else None,
            project=Named(id=one.project.pk, name=one.project.name) if one.project else None,
            group=one.group.name if one.group else None,
        )


@operation(
    "GET",
    "pools/{uuid:pk}/entitlements",
    tag=TAG,
    answers=Listed[EntitlementOut],
    pages=("pools:edit",),
    links={"disentitle": {"pk": "items/0/id"}},
)
def list_entitlements(
    request: HttpRequest, pk: UUID, *, page: Query[PageQuery], sort: Literal["pk"] = "pk"
) -> Listed[EntitlementOut]:
    """Who may use a pool."""
    pool = managed_pool(operators_only(request), pk)
    return page_of(entitlements_of(pool), page, sort).shown(EntitlementOut.of)


class EntitlementIn(Input):
    """Exactly one of the three."""

    person: Text | None = Field(default=None, max_length=254, description="A user name or e-mail address.")
    project: UUID | None = None
    group: Text | None = Field(default=None, max_length=150)

    def named(self, user: User) -> dict[str, Any]:
        if sum(one is not None for one in (self.person, self.project, self.group)) != 1:
            raise InvalidError(_("Name a person, a project or a group."), field="person")
        if self.person is not None:
            return {"user": person_named(self.person)}
        if self.project is not None:
            return {"project": project_for(user, self.project)}
        group = Group.objects.filter(name=self.group).first()
        if group is None:
            raise InvalidError(_("There is no group of this name."), field="group")
        return {"group": group}


@operation(
    "POST",
    "pools/{uuid:pk}/entitlements",
    tag=TAG,
    answers=EntitlementOut,
    status=201,
    pages=("pools:people-add",),
    guards=GUARD,
    links={"disentitle": {"pk": "id"}},
)
def entitle(request: HttpRequest, pk: UUID, body: EntitlementIn) -> EntitlementOut:
    """Let a person, everybody in a project, or everybody in a group use a pool."""
    user = operators_only(request)
    made = services.entitle(managed_pool(user, pk), actor=user, request_ip=client_ip(request), **body.named(user))
    return EntitlementOut.of(made)


def show_entitlement(request: HttpRequest, pk: int) -> EntitlementOut:
    return EntitlementOut.of(entitlement_for(operators_only(request), pk))


@operation(
    "DELETE",
    "pools/entitlements/{int:pk}",
    tag=TAG,
    status=204,
    pages=("pools:people-remove",),
    guards=Guard(Entitlement, show_entitlement),
)
def disentitle(request: HttpRequest, pk: int) -> None:
    """Take the right away. Who has no other right to the pool is signed off."""
    user = operators_only(request)
    services.disentitle(entitlement_for(user, pk), actor=user, request_ip=client_ip(request))


class HoursOut(BaseModel):
    """Minutes of the day in the pool's time zone; `weekday` 0 is Monday; `to_minute` is not among them."""

    weekday: int
    from_minute: int
    to_minute: int
    spare: int

    @classmethod
    def of(cls, one: SpareHours) -> Self:
        return cls(weekday=one.weekday, from_minute=one.from_minute, to_minute=one.to_minute, spare=one.spare)


class PlanOut(BaseModel):
    hours: list[HoursOut]


@operation("GET", "pools/{uuid:pk}/hours", tag=TAG, answers=PlanOut, pages=("pools:edit",))
def list_pool_hours(request: HttpRequest, pk: UUID) -> PlanOut:
    """How many desktops are to be free at which hours; at all others it is the pool's `spare`."""
    return PlanOut(hours=[HoursOut.of(one) for one in managed_pool(operators_only(request), pk).hours.all()])


class HoursIn(Input):
    weekday: int = Field(ge=0, le=6)
    from_minute: int = Field(ge=0, le=1439)
    to_minute: int = Field(ge=1, le=1440)
    spare: Number


class PlanIn(Input):
    hours: list[HoursIn] = Field(max_length=MOST_HOURS)


@operation(
    "PUT",
    "pools/{uuid:pk}/hours",
    tag=TAG,
    answers=PlanOut,
    pages=("pools:hours-add", "pools:hours-remove"),
    guards=GUARD,
)
def set_pool_hours(request: HttpRequest, pk: UUID, body: PlanIn) -> PlanOut:
    """All hours of a pool, in the place of those that were."""
    user = operators_only(request)
    hours = [Hours(one.weekday, one.from_minute, one.to_minute, one.spare) for one in body.hours]
    services.set_hours(managed_pool(user, pk), actor=user, hours=hours, request_ip=client_ip(request))
    return list_pool_hours(request, pk)
