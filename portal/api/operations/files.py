"""People's own files: where they are. Sessions bring them and put them away by themselves."""

import datetime as dt
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest
from ninja import Query
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.api.auth import token_in
from portal.api.core import Guard, operation
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import JobOut, Named, Text, spelled_out
from portal.errors import ConflictError, NotFoundError
from portal.jobs.models import Job
from portal.profiles import services
from portal.profiles.models import Profile
from portal.profiles.selectors import find_profiles
from portal.profiles.states import State

TAG: Final = "Files"
FilesState = Annotated[State, spelled_out(State)]
Sort = Literal["-created_at", "created_at"]


class FilesOut(BaseModel):
    """One person's own files in one project."""

    id: UUID
    person: str
    project: Named
    state: FilesState
    state_since: dt.datetime
    machine: Named | None = Field(description="The one that has them, or has not been seen without them.")
    next_machine: Named | None = Field(description="The one that waits for them.")
    size_gib: int
    used_bytes: int | None = Field(description="As of when they were opened or put away last.")
    read_only: bool
    message: str = Field(description="What is wrong with them; empty if nothing is.")
    volume: UUID | None = Field(description="For operators: none before they are needed first.")

    @classmethod
    def of(cls, profile: Profile, *, operator: bool) -> Self:
        machine, coming = profile.machine, profile.next_machine
        return cls(
            id=profile.pk,
            person=profile.person.get_username(),
            project=Named(id=profile.project_id, name=profile.project.name),
            state=State(profile.state),
            state_since=profile.state_since,
            machine=Named(id=machine.pk, name=machine.name) if machine else None,
            next_machine=Named(id=coming.pk, name=coming.name) if coming else None,
            size_gib=profile.size_gib,
            used_bytes=profile.used_bytes if profile.has_files else None,
            read_only=profile.is_read_only,
            message=profile.message,
            volume=profile.volume_id if operator and profile.has_files else None,
        )


def _seen(request: HttpRequest, rows: QuerySet[Profile]) -> QuerySet[Profile]:
    """Their own, or to operators all; by a token for one project those in it."""
    seen = rows.filter(pk__in=Profile.objects.visible_to(person(request)).values("pk"))
    project = token_in(request).project_id
    return seen.filter(project=project) if project is not None else seen


def _one(request: HttpRequest, pk: UUID) -> Profile:
    found = _seen(request, find_profiles()).filter(pk=pk).first()
    if found is None:
        raise NotFoundError
    return found


@operation(
    "GET",
    "files",
    tag=TAG,
    answers=Listed[FilesOut],
    pages=("profiles:mine", "profiles:list"),
    links={"show_files": {"pk": "items/0/id"}},
)
def list_files(
    request: HttpRequest,
    *,
    page: Query[PageQuery],
    q: Text = "",
    state: FilesState | None = None,
    sort: Sort = "-created_at",
) -> Listed[FilesOut]:
    """Where your own files are; for operators where everybody's are. `q` looks in persons, projects and machines."""
    found = page_of(_seen(request, find_profiles(search=q, state=state or "")), page, sort)
    operator = person(request).is_staff
    return found.shown(lambda profile: FilesOut.of(profile, operator=operator))


@operation(
    "GET",
    "files/{uuid:pk}",
    tag=TAG,
    answers=FilesOut,
    links={"release_files": {"pk": "id"}, "delete_files": {"pk": "id"}},
)
def show_files(request: HttpRequest, pk: UUID) -> FilesOut:
    """One person's files in one project."""
    return FilesOut.of(_one(request, pk), operator=person(request).is_staff)


GUARD: Final = Guard(Profile, show_files)


@operation(
    "POST",
    "files/{uuid:pk}/release",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("profiles:release",),
    guards=GUARD,
    links={"show_job": {"pk": "id"}},
)
def release_files(request: HttpRequest, pk: UUID) -> Job:
    """Have them put away from the machine that has them; for operators. A guest that does not let them go is switched
    off."""
    return services.request_release(_one(request, pk), actor=person(request), request_ip=client_ip(request))


@operation(
    "DELETE",
    "files/{uuid:pk}",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("profiles:delete",),
    guards=GUARD,
    links={"show_job": {"pk": "id"}},
)
def delete_files(request: HttpRequest, pk: UUID) -> Job:
    """Delete them for good, when no machine has them; for operators."""
    profile = _one(request, pk)
    job = services.request_delete(profile, actor=person(request), request_ip=client_ip(request))
    if job is None:
        raise ConflictError(services.nothing_to_delete(profile))
    return job
