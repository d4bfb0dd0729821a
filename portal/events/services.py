"""Writing events, always in the same transaction as what they tell of; and people's writes about webhooks."""

from __future__ import annotations

import base64
import datetime as dt
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from django.contrib.auth.models import AbstractUser
from django.db import IntegrityError, models, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, InvalidError
from portal.events.kinds import CHOICES, Kind
from portal.events.models import Delivery, DeliveryStatus, Event, Webhook
from portal.lib import bus, live, prepared
from portal.lib.fetcher import RefusedError, target_of
from portal.lib.secrets import seal, unseal

QUEUE = "hooks"
TASK = "events.deliver"
MOST_WEBHOOKS = 20
CHANGE_OVER = dt.timedelta(days=1)
"""for which a new secret and the one before it both sign"""


def record(
    kind: Kind,
    subject: models.Model,
    *,
    project: UUID | None,
    actor: AbstractUser | None = None,
    data: dict[str, Any] | None = None,
) -> Event:
    """Add an event, and a delivery for each webhook of its project that wants it. `data` holds no secret."""
    with transaction.atomic(savepoint=False):
        event = _add(kind, subject, project, actor.get_username() if actor else "", data)
        _deliver_to(_who_wants(kind, project), [event])
    return event


def record_many(
    kind: Kind, subjects: Sequence[tuple[models.Model, dict[str, Any]]], *, project: UUID | None, actor_name: str = ""
) -> None:
    """As `record`, of many things at once, each with its data; the same few statements however many they are."""
    with transaction.atomic(savepoint=False):
        made = Event.objects.bulk_create(
            [_event(kind, subject, project, actor_name, data) for subject, data in subjects]
        )
        _tell_of_events(project)
        _deliver_to(_who_wants(kind, project), made)


def _add(kind: Kind, subject: models.Model, project: UUID | None, actor: str, data: dict[str, Any] | None) -> Event:
    event = _event(kind, subject, project, actor, data)
    event.save(force_insert=True)
    _tell_of_events(project)
    return event


def _event(kind: Kind, subject: models.Model, project: UUID | None, actor: str, data: dict[str, Any] | None) -> Event:
    return Event(
        kind=kind,
        project_id=project,
        subject_type=subject._meta.model_name or "",
        subject_id=subject.pk,
        subject_name=str(subject)[:150],
        actor_name=actor,
        data=data or {},
    )


def _tell_of_events(project: UUID | None) -> None:
    groups = [live.OPERATORS, live.project_group(project)] if project else [live.OPERATORS]
    live.publish_on_commit(groups, [f"events:{project}"])


def _who_wants(kind: Kind, project: UUID | None) -> list[UUID]:
    """Keys of webhooks. Asked with everything that happens, so that no more than needed is read."""
    if project is None:
        return []
    return [pk for pk, kinds in _enabled_hooks(project) if not kinds or kind in kinds]


@prepared.rows
def _enabled_hooks(project: UUID) -> models.QuerySet[Webhook, tuple[UUID, list[str]]]:
    return Webhook.objects.filter(project=project, enabled=True).values_list("pk", "kinds")


def _deliver_to(webhooks: Sequence[UUID], made: Sequence[Event]) -> None:
    Delivery.objects.bulk_create(Delivery(webhook_id=pk, event=event) for pk in webhooks for event in made)
    for pk in webhooks:
        wake(pk)


def wake(webhook_id: UUID) -> None:
    """After the commit. A message that is lost does no harm: the clock looks for what is due."""
    transaction.on_commit(lambda: bus.wake(TASK, webhook_id, queue=QUEUE))


def tell_webhook(webhook: Webhook) -> None:
    """Those who may see it look at it again."""
    topics = [f"webhook:{webhook.pk}", f"webhooks:{webhook.project_id}"]
    live.publish_on_commit([live.OPERATORS, live.project_group(webhook.project_id)], topics)


# --- what people ask for ------------------------------------------------------------------------------------------


def add_webhook(
    project: Project,
    *,
    actor: User,
    name: str,
    url: str,
    kinds: Sequence[str] = (),
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> Webhook:
    """The same `request_key` gives the same webhook again: it becomes its id. The secret is made here."""
    require(actor, project.pk, Permission.PROJECT_MANAGE)
    earlier = Webhook.objects.filter(pk=request_key, project=project).first() if request_key else None
    if earlier is not None:
        return earlier
    values = _checked(name, url, kinds)
    if project.webhooks.count() >= MOST_WEBHOOKS:
        raise ConflictError(_("A project has at most %(most)s webhooks. Delete one first.") % {"most": MOST_WEBHOOKS})
    try:
        with transaction.atomic():
            webhook = Webhook.objects.create(
                id=request_key or uuid4(),
                project=project,
                secret=seal(new_secret()),
                created_by_name=actor.get_username(),
                **values,
            )
            audit.record(actor, "webhook.added", webhook, detail=_for_audit(values), request_ip=request_ip)
            tell_webhook(webhook)
    except IntegrityError as error:
        raise ConflictError(_("This form has been sent already. Open the page anew.")) from error
    return webhook


@transaction.atomic
def change_webhook(
    webhook: Webhook, *, actor: User, name: str, url: str, kinds: Sequence[str], request_ip: str | None = None
) -> None:
    require(actor, webhook.project_id, Permission.PROJECT_MANAGE)
    values = _checked(name, url, kinds)
    before = {field: getattr(webhook, field) for field in values}
    if values == before:
        return
    Webhook.objects.filter(pk=webhook.pk).update(**values)
    detail = {"before": _for_audit(before), "after": _for_audit(values)}
    audit.record(actor, "webhook.changed", webhook, detail=detail, request_ip=request_ip)
    tell_webhook(webhook)


@transaction.atomic
def set_enabled(webhook: Webhook, *, actor: User, enabled: bool, request_ip: str | None = None) -> None:
    """Switched on again, what waited is sent at once. What happened while it was off is not sent."""
    require(actor, webhook.project_id, Permission.PROJECT_MANAGE)
    values = {"enabled": enabled, "failing_since": None, "stopped_reason": ""}
    if Webhook.objects.filter(pk=webhook.pk, enabled=not enabled).update(**values) != 1:
        return
    action = "webhook.enabled" if enabled else "webhook.disabled"
    audit.record(actor, action, webhook, request_ip=request_ip)
    if enabled:
        waiting = Delivery.objects.filter(webhook=webhook, status=DeliveryStatus.PENDING)
        waiting.filter(due_at__gt=timezone.now()).update(due_at=timezone.now())
        wake(webhook.pk)
    tell_webhook(webhook)


@transaction.atomic
def delete_webhook(webhook: Webhook, *, actor: User, request_ip: str | None = None) -> None:
    require(actor, webhook.project_id, Permission.PROJECT_MANAGE)
    audit.record(
        actor, "webhook.deleted", webhook, detail={"host": urlsplit(webhook.url).hostname}, request_ip=request_ip
    )
    tell_webhook(webhook)
    webhook.delete()


@transaction.atomic
def try_webhook(webhook: Webhook, *, actor: User, request_ip: str | None = None) -> Delivery:
    """Send an event of no meaning to this webhook alone."""
    require(actor, webhook.project_id, Permission.PROJECT_MANAGE)
    if not webhook.enabled:
        raise ConflictError(_("This webhook is off. Switch it on to try it."))
    audit.record(actor, "webhook.tested", webhook, request_ip=request_ip)
    event = _add(Kind.WEBHOOK_TEST, webhook, webhook.project_id, actor.get_username(), None)
    _deliver_to([webhook.pk], [event])
    tell_webhook(webhook)
    return Delivery.objects.get(webhook=webhook, event=event)


@transaction.atomic
def resend(delivery: Delivery, *, actor: User, request_ip: str | None = None) -> None:
    """Send it once more, whether it arrived or was given up; one that waits goes at once. It keeps its id."""
    webhook = delivery.webhook
    require(actor, webhook.project_id, Permission.PROJECT_MANAGE)
    if not webhook.enabled:
        raise ConflictError(_("This webhook is off. Switch it on to send something again."))
    now = timezone.now()
    again = Delivery.objects.filter(pk=delivery.pk).exclude(status=DeliveryStatus.PENDING, due_at__lte=now)
    if again.update(status=DeliveryStatus.PENDING, attempts=0, due_at=now, lease_owner="", lease_until=None) != 1:
        return
    audit.record(actor, "webhook.resent", webhook, detail={"event": str(delivery.event.uid)}, request_ip=request_ip)
    wake(webhook.pk)
    tell_webhook(webhook)


def show_secret(webhook: Webhook, *, actor: User, request_ip: str | None = None) -> str:
    """Each look is written down. Empty when it cannot be read any more."""
    require(actor, webhook.project_id, Permission.PROJECT_MANAGE)
    audit.record(actor, "webhook.secret", webhook, request_ip=request_ip)
    return unseal(webhook.secret)


@transaction.atomic
def change_secret(webhook: Webhook, *, actor: User, request_ip: str | None = None) -> str:
    """A new secret, which is told. The one before signs as well for CHANGE_OVER; asked again meanwhile, that one stays
    the one before, since it is what the receiver knows.
    """
    require(actor, webhook.project_id, Permission.PROJECT_MANAGE)
    now = Webhook.objects.select_for_update().get(pk=webhook.pk)
    secret = new_secret()
    before = now.old_secret if now.changes_over else now.secret
    Webhook.objects.filter(pk=webhook.pk).update(
        secret=seal(secret), old_secret=before, old_secret_until=timezone.now() + CHANGE_OVER
    )
    audit.record(actor, "webhook.new_secret", webhook, request_ip=request_ip)
    tell_webhook(webhook)
    return secret


def secrets_of(webhook: Webhook) -> list[str]:
    """What to sign with, the newest first. Empty when it cannot be read any more."""
    secret = unseal(webhook.secret)
    if not secret:
        return []
    before = unseal(webhook.old_secret) if webhook.changes_over else ""
    return [secret, before] if before else [secret]


def new_secret() -> str:
    """256 bits, spelled as Standard Webhooks do."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _for_audit(values: dict[str, Any]) -> dict[str, str]:
    """Everyone in the project reads it, and the rest of an address is often as good as a password."""
    return {
        "name": values["name"],
        "host": urlsplit(values["url"]).hostname or "",
        "events": ", ".join(values["kinds"]) or "all",
    }


def _checked(name: str, url: str, kinds: Sequence[str]) -> dict[str, Any]:
    name, url = name.strip(), url.strip()
    if not name or len(name) > 100:
        raise InvalidError(_("Give the webhook a name of at most 100 characters."), field="name")
    try:
        target_of(url)
    except RefusedError as error:
        raise InvalidError(error.message, field="url") from error
    known = {value for value, _label in CHOICES}
    if not known.issuperset(kinds):
        raise InvalidError(_("There is no such kind of event."), field="kinds")
    return {"name": name, "url": url, "kinds": sorted(set(kinds))}
