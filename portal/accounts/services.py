"""Writes about projects, their members and quota, and people's SSH keys."""

from dataclasses import asdict

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from portal.accounts import events
from portal.accounts.models import Membership, Project, SshKey, User
from portal.accounts.permissions import Permission, Role
from portal.accounts.quota import Amount
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from portal.lib.ssh import clean_ssh_key, key_comment

# The largest number that PostgreSQL's integer columns hold.
MOST = 2**31 - 1
MOST_KEYS = 50
MOST_BIN_DAYS = 365
MOST_KEY_CHARACTERS = 8192

_LIMIT_COLUMNS = {
    "machines": "max_machines",
    "vcpus": "max_vcpus",
    "memory_mib": "max_memory_mib",
    "disk_gib": "max_disk_gib",
}


def create_project(
    name: str,
    *,
    actor: User,
    limits: Amount,
    description: str = "",
    owner: User | None = None,
    request_ip: str | None = None,
) -> Project:
    """Add a project with its quota and, if one is named, its first owner."""
    _operators_only(actor)
    name = name.strip()
    if not name or len(name) > 100:
        raise InvalidError(_("Give the project a name of at most 100 characters."), field="name")
    values = _limit_values(limits)
    try:
        with transaction.atomic():
            project = Project.objects.create(name=name, description=description.strip(), **values)
            audit.record(
                actor, "project.created", project, project=project, detail=asdict(limits), request_ip=request_ip
            )
            if owner is not None:
                _join(project, owner, Role.OWNER, actor=actor, request_ip=request_ip)
            events.project_changed(project)
    except IntegrityError as error:
        raise ConflictError(_("There is a project of this name already."), field="name") from error
    return project


@transaction.atomic
def update_quota(project: Project, *, actor: User, limits: Amount, request_ip: str | None = None) -> None:
    """Set what the project may use. Less than it uses now is allowed: nothing is taken away, but nothing new fits."""
    _operators_only(actor)
    values = _limit_values(limits)
    before = {name: getattr(project, column) for name, column in _LIMIT_COLUMNS.items()}
    if Project.objects.filter(pk=project.pk).exclude(**values).update(**values) != 1:
        return  # It is so already: the same form was sent twice.
    project.refresh_from_db()
    audit.record(
        actor,
        "project.quota",
        project,
        project=project,
        detail={"before": before, "after": asdict(limits)},
        request_ip=request_ip,
    )
    events.project_changed(project)


@transaction.atomic
def set_bin_days(project: Project, *, actor: User, days: int, request_ip: str | None = None) -> None:
    """How long deleted machines of the project can be taken back, from now on."""
    require(actor, project.pk, Permission.PROJECT_MANAGE)
    if not 0 <= days <= MOST_BIN_DAYS:
        raise InvalidError(
            _("The bin keeps things for 0 to %(most)s days.") % {"most": MOST_BIN_DAYS}, field="bin_days"
        )
    before = project.bin_days
    if Project.objects.filter(pk=project.pk).exclude(bin_days=days).update(bin_days=days) == 1:
        detail = {"before": before, "after": days}
        audit.record(actor, "project.bin", project, project=project, detail=detail, request_ip=request_ip)
        events.project_changed(project)


def add_member(project: Project, *, actor: User, person: str, role: Role, request_ip: str | None = None) -> Membership:
    """Give someone, named by user name or e-mail address, a role in the project."""
    require(actor, project.pk, Permission.PROJECT_MANAGE)
    user = person_named(person)
    try:
        with transaction.atomic():
            return _join(project, user, role, actor=actor, request_ip=request_ip)
    except IntegrityError as error:
        raise ConflictError(
            _("%(person)s is in this project already; change the role in the table.") % {"person": user.get_username()},
            field="person",
        ) from error


@transaction.atomic
def change_role(membership: Membership, *, actor: User, role: Role, request_ip: str | None = None) -> None:
    """Give a member another role. The last owner keeps theirs."""
    project = membership.project
    require(actor, project.pk, Permission.PROJECT_MANAGE)
    current = _locked(membership)
    if role == current.role:
        return
    if role != Role.OWNER:
        _keep_an_owner(current)
    Membership.objects.filter(pk=current.pk).update(role=role)
    audit.record(
        actor,
        "member.role",
        project,
        project=project,
        detail={"person": current.user.get_username(), "before": current.role, "after": role.value},
        request_ip=request_ip,
    )
    _tell(current)


@transaction.atomic
def remove_member(membership: Membership, *, actor: User, request_ip: str | None = None) -> None:
    """Take someone out of the project; their machines stay in it. The last owner cannot go."""
    project = membership.project
    require(actor, project.pk, Permission.PROJECT_MANAGE)
    current = _locked(membership)
    _keep_an_owner(current)
    Membership.objects.filter(pk=current.pk).delete()
    audit.record(
        actor,
        "member.removed",
        project,
        project=project,
        detail={"person": current.user.get_username(), "role": current.role},
        request_ip=request_ip,
    )
    _tell(current)


def add_key(user: User, *, actor: User, public_key: str, name: str = "", request_ip: str | None = None) -> SshKey:
    """Keep a public key of the person's. Without a name it is called by the key's own comment."""
    _own_keys_only(user, actor)
    line = _checked_key(public_key)
    name = (name.strip() or key_comment(line) or line.split(maxsplit=1)[0])[:100]
    if user.ssh_keys.count() >= MOST_KEYS:
        raise ConflictError(_("You have %(most)s keys already. Delete one first.") % {"most": MOST_KEYS})
    if any(key.public_key.split()[:2] == line.split()[:2] for key in user.ssh_keys.all()):
        raise ConflictError(_("You have added this key already."), field="public_key")
    try:
        with transaction.atomic():
            key = SshKey.objects.create(user=user, name=name, public_key=line)
            audit.record(actor, "key.added", key, request_ip=request_ip)
    except IntegrityError as error:
        raise ConflictError(
            _("You have a key named “%(name)s” already; choose another name.") % {"name": name}, field="name"
        ) from error
    return key


@transaction.atomic
def delete_key(key: SshKey, *, actor: User, request_ip: str | None = None) -> None:
    """Forget the key. Machines that hold it keep it: it is inside them."""
    _own_keys_only(key.user, actor)
    audit.record(actor, "key.deleted", key, request_ip=request_ip)
    key.delete()


def _operators_only(actor: User) -> None:
    if not (actor.is_active and actor.is_staff):
        raise ForbiddenError(_("Only operators may do this."))


def _own_keys_only(user: User, actor: User) -> None:
    if user.pk != actor.pk or not actor.is_active:
        raise ForbiddenError(_("People manage their own keys only."))


def _limit_values(limits: Amount) -> dict[str, int]:
    for name, value in asdict(limits).items():
        if not 0 <= value <= MOST:
            raise InvalidError(
                _("A limit is a whole number from 0 to %(most)s.") % {"most": MOST}, field=_LIMIT_COLUMNS[name]
            )
    return {_LIMIT_COLUMNS[name]: value for name, value in asdict(limits).items()}


def person_named(text: str) -> User:
    """Whoever has this user name or this e-mail address. People who cannot sign in are not there."""
    text = text.strip()
    people = User.objects.filter(is_active=True, guest_until=None)
    exact = people.filter(username=text).first()
    if exact is not None:
        return exact
    found = list(people.filter(Q(username__iexact=text) | Q(email__iexact=text))[:2]) if text else []
    if not found:
        raise InvalidError(
            _("Nobody here has this user name or e-mail address. An operator can add people."), field="person"
        )
    if len(found) > 1:
        raise InvalidError(_("Several people match this; use the user name."), field="person")
    return found[0]


def _join(project: Project, user: User, role: Role, *, actor: User, request_ip: str | None) -> Membership:
    membership = Membership.objects.create(project=project, user=user, role=role)
    audit.record(
        actor,
        "member.added",
        project,
        project=project,
        detail={"person": user.get_username(), "role": role.value},
        request_ip=request_ip,
    )
    _tell(membership)
    return membership


def _locked(membership: Membership) -> Membership:
    """The membership as it is now, while nobody else changes the project's members.

    Two owners who take each other's role at the same moment would otherwise leave none.
    """
    Project.objects.select_for_update().get(pk=membership.project_id)
    current = Membership.objects.filter(pk=membership.pk).select_related("user", "project").first()
    if current is None:
        raise NotFoundError
    return current


def _keep_an_owner(membership: Membership) -> None:
    if membership.role != Role.OWNER:
        return
    others = Membership.objects.filter(project_id=membership.project_id, role=Role.OWNER, user__is_active=True)
    if not others.exclude(pk=membership.pk).exists():
        raise ConflictError(
            _("%(person)s is the last owner of this project. Make someone else an owner first.")
            % {"person": membership.user.get_username()}
        )


def _checked_key(text: str) -> str:
    if len(text) > MOST_KEY_CHARACTERS:
        raise InvalidError(_("This is too long for a public key."), field="public_key")
    try:
        line = clean_ssh_key(text)
    except ValidationError as error:
        raise InvalidError(error.messages[0], field="public_key") from error
    if not line:
        raise InvalidError(_("Paste the public key."), field="public_key")
    return line


def _tell(membership: Membership) -> None:
    events.project_changed(membership.project)
    events.memberships_changed(membership.user)
