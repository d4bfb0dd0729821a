"""Reads about people's files: whose are where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q, QuerySet
from django.utils.functional import Promise
from django.utils.translation import gettext as _

from portal.accounts.models import Project, User
from portal.errors import NotFoundError
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE, JobName, JobStatus
from portal.machines.models import Attachment, Machine
from portal.profiles.models import Profile
from portal.profiles.states import State

_RELATED = ("person", "project", "volume__host", "machine__project", "next_machine")


def profile_of(person: User, project: Project) -> Profile | None:
    """None if the person has never needed files there."""
    return Profile.objects.filter(person=person, project=project).select_related(*_RELATED).first()


def profile_for(user: User | AnonymousUser, pk: UUID | str) -> Profile:
    """NotFoundError unless they are their own, or `user` is an operator."""
    found = Profile.objects.visible_to(user).filter(pk=pk).select_related(*_RELATED).first()
    if found is None:
        raise NotFoundError
    return found


def profiles_of(person: User) -> QuerySet[Profile]:
    """All of one person's, whoever else they may see."""
    return Profile.objects.filter(person=person).select_related(*_RELATED).order_by("project__name")


def find_profiles(*, search: str = "", state: str = "") -> QuerySet[Profile]:
    """Everybody's, for the operators' page: what is wrong first, then what is open. Filters that mean nothing are
    ignored.
    """
    rows = Profile.objects.select_related(*_RELATED)
    if search:
        about = Q(person__username__icontains=search) | Q(project__name__icontains=search)
        rows = rows.filter(about | Q(machine__name__icontains=search))
    if state in State.values:
        rows = rows.filter(state=state)
    return rows.order_by("person__username", "project__name")


def profile_on(machine: Machine) -> Profile | None:
    """Whose files this machine has, or is about to, or has not been seen without."""
    return Profile.objects.filter(machine=machine).select_related(*_RELATED).first()


def awaited_on(machine: Machine) -> Profile | None:
    """Whose files are wanted on this machine, and have not come."""
    return Profile.objects.filter(next_machine=machine).select_related(*_RELATED).first()


def attachment_of(profile: Profile) -> Attachment | None:
    """The machine's row for their volume. While there is one, no other machine may have them, whatever `state` says."""
    if profile.volume_id is None:
        return None
    return Attachment.objects.filter(volume=profile.volume_id).select_related("machine__host", "volume").first()


def host_of(person: User, project: Project) -> UUID | None:
    """The host that the person's files lie on: only a machine there can have them. None if any will do."""
    profile = profile_of(person, project)
    return profile.volume.host_id if profile is not None and profile.volume is not None and profile.has_files else None


def active_job(machine: Machine, name: JobName) -> Job | None:
    """The one that is not about to stop."""
    jobs = Job.objects.filter(target_type="machine", target_id=machine.pk, name=name, status__in=ACTIVE)
    return jobs.filter(cancel_requested=False).order_by("created_at").last()


@dataclass(frozen=True, slots=True)
class Files:
    """What a session is told of its person's files. `state` is empty if there are none, and `message` then says why."""

    state: str
    words: str | Promise
    message: str = ""
    is_read_only: bool = False

    @property
    def are_here(self) -> bool:
        return self.state == State.IN_USE


def files_on(machine: Machine) -> Files | None:
    """None if nobody's were ever asked for on this machine."""
    profile = profile_on(machine)
    if profile is not None:
        return Files(profile.state, State(profile.state).label, profile.message, profile.is_read_only)
    if awaited_on(machine) is not None:
        return Files(State.ATTACHING, State.ATTACHING.label)
    tried = Job.objects.filter(target_type="machine", target_id=machine.pk, name=JobName.PROFILE_ATTACH)
    last = tried.order_by("created_at").last()
    if last is None or last.status != JobStatus.FAILED:
        return None
    return Files("", _("Not here"), last.error_message)


def without_job(profiles: Iterable[Profile], name: JobName) -> list[Profile]:
    """Those for whose machine no such job is under way. Two queries, however many."""
    rows = list(profiles)
    asked_by = {row.pk: row.machine_id for row in rows}
    if name == JobName.PROFILE_ATTACH:
        asked_by |= {row.pk: row.next_machine_id for row in rows if row.next_machine_id is not None}
    machines = {pk for pk in asked_by.values() if pk is not None}
    jobs = Job.objects.filter(target_type="machine", target_id__in=machines, name=name, status__in=ACTIVE)
    busy = set(jobs.order_by().values_list("target_id", flat=True))
    return [row for row in rows if asked_by[row.pk] not in busy]
