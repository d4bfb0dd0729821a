"""Running copies that machines are forked from, and which of them are kept ready. All of it is for operators."""

import datetime as dt
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Query
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.api.core import Guard, operation
from portal.api.operations.machines import flavour_named
from portal.api.operations.parts import operators_only
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import Input, Named, Text, spelled_out
from portal.errors import InvalidError
from portal.parents import services
from portal.parents.models import Parent, ParentWish
from portal.parents.selectors import Size, forkable_images, parent_for, parents_for, wish_for, wishes_for
from portal.parents.states import State

TAG: Final = "Running copies"
ParentState = Annotated[State, spelled_out(State)]


class ParentOut(BaseModel):
    """A system that was started once and is kept as it is, on one host: machines of its image and size are forked from
    it. `reason` says why it failed or goes."""

    id: UUID
    image: Named
    version: int
    host: Named
    vcpus: int
    memory_mib: int
    disk_gib: int
    state: ParentState
    reason: str
    failures: int = Field(description="In a row. After three it is given up.")
    forks: int = Field(description="Machines that were forked from it and are not deleted.")
    captured_by: str = Field(description="The hypervisor and its accelerator.")
    captured_at: dt.datetime | None
    last_used_at: dt.datetime | None
    created_at: dt.datetime

    @classmethod
    def of(cls, parent: Parent) -> Self:
        """Of one of `parents_for`."""
        image = parent.image_version.image
        return cls(
            id=parent.pk,
            image=Named(id=image.pk, name=image.title),
            version=parent.image_version.number,
            host=Named(id=parent.host_id, name=parent.host.name),
            vcpus=parent.vcpus,
            memory_mib=parent.memory_mib,
            disk_gib=parent.disk_gib,
            state=State(parent.state),
            reason=parent.reason,
            failures=parent.failures,
            forks=getattr(parent, "fork_count", 0),
            captured_by=parent.made_for,
            captured_at=parent.captured_at,
            last_used_at=parent.last_used_at,
            created_at=parent.created_at,
        )


@operation(
    "GET",
    "parents",
    tag=TAG,
    answers=Listed[ParentOut],
    pages=("hosts:copies",),
    links={"show_parent": {"pk": "items/0/id"}},
)
def list_parents(
    request: HttpRequest,
    page: Query[PageQuery],
    state: ParentState | None = None,
    sort: Literal["created_at", "-created_at"] = "created_at",
) -> Listed[ParentOut]:
    """Running copies, wherever they are."""
    operators_only(request)
    parents = parents_for(request.user)
    if state:
        parents = parents.filter(state=state)
    return page_of(parents, page, sort).shown(ParentOut.of)


@operation("GET", "parents/{uuid:pk}", tag=TAG, answers=ParentOut)
def show_parent(request: HttpRequest, pk: UUID) -> ParentOut:
    """One running copy."""
    return ParentOut.of(parent_for(person(request), pk))


@operation(
    "POST",
    "parents/{uuid:pk}/retry",
    tag=TAG,
    answers=ParentOut,
    pages=("hosts:copy-again",),
    guards=Guard(Parent, show_parent),
)
def retry_parent(request: HttpRequest, pk: UUID) -> ParentOut:
    """Have one that failed made again, whether it was given up or not."""
    parent = parent_for(person(request), pk)
    services.request_again(parent, actor=person(request), request_ip=client_ip(request))
    return show_parent(request, pk)


class ParentWishOut(BaseModel):
    """A running copy of the image's newest version is kept ready in this size, on the hosts that run machines of it.
    `note` says what stands in the way."""

    id: UUID
    image: Named
    vcpus: int
    memory_mib: int
    disk_gib: int
    note: str
    created_by: str | None
    created_at: dt.datetime

    @classmethod
    def of(cls, wish: ParentWish) -> Self:
        return cls(
            id=wish.pk,
            image=Named(id=wish.image_id, name=wish.image.title),
            vcpus=wish.vcpus,
            memory_mib=wish.memory_mib,
            disk_gib=wish.disk_gib,
            note=wish.note,
            created_by=wish.created_by.get_username() if wish.created_by else None,
            created_at=wish.created_at,
        )


@operation(
    "GET",
    "parent-wishes",
    tag=TAG,
    answers=Listed[ParentWishOut],
    pages=("hosts:copies",),
    links={"remove_parent_wish": {"pk": "items/0/id"}},
)
def list_parent_wishes(
    request: HttpRequest, page: Query[PageQuery], sort: Literal["created_at", "-created_at"] = "created_at"
) -> Listed[ParentWishOut]:
    """Of which images, and in which sizes, running copies are kept ready."""
    operators_only(request)
    return page_of(wishes_for(request.user), page, sort).shown(ParentWishOut.of)


def show_parent_wish(request: HttpRequest, pk: UUID) -> ParentWishOut:
    return ParentWishOut.of(wish_for(person(request), pk))


class ParentWishIn(Input):
    image: UUID
    flavour: Text = Field(description="The short name of a size.")


@operation(
    "POST",
    "parent-wishes",
    tag=TAG,
    answers=ParentWishOut,
    status=201,
    pages=("hosts:copy-keep",),
    links={"remove_parent_wish": {"pk": "id"}},
)
def add_parent_wish(request: HttpRequest, body: ParentWishIn) -> ParentWishOut:
    """Keep a running copy ready. Asked twice it is one wish."""
    operators_only(request)
    image = forkable_images().filter(pk=body.image).first()
    if image is None:
        raise InvalidError(_("There is no such image that could be kept running."), field="image")
    flavour = flavour_named(body.flavour)
    size = Size(flavour.vcpus, flavour.memory_mib, flavour.disk_gib)
    wish = services.add_wish(image, actor=person(request), size=size, request_ip=client_ip(request))
    return ParentWishOut.of(wish)


@operation(
    "DELETE",
    "parent-wishes/{uuid:pk}",
    tag=TAG,
    status=204,
    pages=("hosts:copy-no-longer",),
    guards=Guard(ParentWish, show_parent_wish),
)
def remove_parent_wish(request: HttpRequest, pk: UUID) -> None:
    """Keep it ready no longer. The copies go when nobody else wants them and nothing uses them."""
    wish = wish_for(person(request), pk)
    services.remove_wish(wish, actor=person(request), request_ip=client_ip(request))
