"""What does not agree between a host and the rows: kept as reconciliation found it, shown to operators, never acted on
by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db import transaction
from django.db.models import QuerySet

from portal.accounts.models import User
from portal.errors import NotFoundError
from portal.hosts import services
from portal.hosts.models import Difference, DifferenceKind, Host


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference as reconciliation sees it; the columns are those of `Difference`."""

    kind: DifferenceKind
    object_id: UUID
    name: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)


@transaction.atomic
def record_differences(host: Host, findings: Collection[Finding]) -> None:
    """What is known of the host becomes `findings`: new ones are kept, those that are over are forgotten."""
    found = {(finding.kind.value, finding.object_id): finding for finding in findings}
    known = {(row.kind, row.object_id): row for row in Difference.objects.filter(host=host)}
    over = [row.pk for key, row in known.items() if key not in found]
    new = [finding for key, finding in found.items() if key not in known]
    changed = [row for key, row in known.items() if key in found and _take(row, found[key])]
    Difference.objects.filter(pk__in=over).delete()
    Difference.objects.bulk_create(_row(host, finding) for finding in new)
    Difference.objects.bulk_update(changed, ["name", "detail"])
    if over or new or changed:
        services.tell(host)


def _row(host: Host, finding: Finding) -> Difference:
    return Difference(
        host=host,
        kind=finding.kind,
        object_id=finding.object_id,
        name=finding.name[:255],
        detail=dict(finding.detail),
    )


def _take(row: Difference, finding: Finding) -> bool:
    """Bring a row up to date; True if that changed it."""
    if (row.name, row.detail) == (finding.name[:255], dict(finding.detail)):
        return False
    row.name, row.detail = finding.name[:255], dict(finding.detail)
    return True


def differences_on(host: Host) -> QuerySet[Difference]:
    return Difference.objects.filter(host=host)


def difference_for(user: User | AnonymousUser, pk: UUID | str) -> Difference:
    """A difference, for operators only: for everyone else there is none."""
    operator = user.is_staff and user.is_active
    difference = Difference.objects.select_related("host").filter(pk=pk).first() if operator else None
    if difference is None:
        raise NotFoundError
    return difference


def difference_by_id(pk: UUID | str) -> Difference:
    """For workers, which act for the portal itself. NotFoundError if it is over."""
    difference = Difference.objects.select_related("host").filter(pk=pk).first()
    if difference is None:
        raise NotFoundError
    return difference
