"""Sending events to webhooks: the workers' part. At least once: whoever gets one knows it again by its webhook-id.

A worker takes a delivery's lease by conditional UPDATE, sends, and writes down what came of it if the lease is still
its own. One that is killed in between leaves a lease that runs out, and the clock has it sent again.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import time
from dataclasses import dataclass
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.audit import services as audit
from portal.events.kinds import Kind
from portal.events.messages import body_of, headers_of
from portal.events.models import Delivery, DeliveryStatus, Event, Webhook
from portal.events.services import record, secrets_of, tell_webhook, wake
from portal.lib.fetcher import Fetcher, FetchError, Limits, fetcher

logger = logging.getLogger(__name__)

LIMITS = Limits(max_bytes=1000, total_s=15.0, connect_s=5.0, silence_s=10.0)
LEASE = dt.timedelta(seconds=60)
"""longer than an attempt takes"""

FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 6 * 3600.0
MOST_ATTEMPTS = 9
"""over about 13 hours"""

STOPPED_AFTER = dt.timedelta(days=2)
"""of failing, without anything that arrived in between"""

HELD_BACK = dt.timedelta(seconds=60)
"""the longest that a failure puts off what else is due for the same webhook"""

AT_ONCE = 2
"""deliveries of one webhook under way, so that one that is slow leaves workers for the others"""

LONGEST_TURN_S = 30.0
"""A worker goes on with what is due for a webhook for so long; then others get their turn."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is the answer's, if there was one; `error` is safe to show, and empty if it arrived."""

    status: int | None
    answer: str
    error: str
    took_ms: int


def deliver(webhook_id: UUID, *, by: Fetcher | None = None) -> int:
    """Send what is due for the webhook, one after the other, until one fails. Returns how many were tried."""
    began, tried = time.monotonic(), 0
    while time.monotonic() - began < LONGEST_TURN_S:
        delivery = _claim(webhook_id)
        if delivery is None:
            break
        tried += 1
        if not _try(delivery, by or fetcher()):
            break
    return tried


def _claim(webhook_id: UUID) -> Delivery | None:
    """The next one that is due, with its lease; None if there is none or others are at it."""
    owner = uuid4().hex
    for _attempt in range(3):  # Another worker may be quicker at one of them.
        now = timezone.now()
        mine = Delivery.objects.filter(webhook=webhook_id, status=DeliveryStatus.PENDING, webhook__enabled=True)
        if mine.filter(lease_until__gte=now).count() >= AT_ONCE:
            return None
        free = Q(lease_until=None) | Q(lease_until__lt=now)
        pk = mine.filter(free, due_at__lte=now).order_by("due_at", "event_id").values_list("pk", flat=True).first()
        if pk is None:
            return None
        row = Delivery.objects.filter(free, pk=pk, status=DeliveryStatus.PENDING)
        if row.update(lease_owner=owner, lease_until=now + LEASE, attempts=F("attempts") + 1) == 1:
            return Delivery.objects.select_related("webhook", "event").get(pk=pk)
    return None


def _try(delivery: Delivery, by: Fetcher) -> bool:
    """True if it arrived."""
    outcome = _send(delivery, by)
    with transaction.atomic():
        held = Delivery.objects.filter(pk=delivery.pk, lease_owner=delivery.lease_owner, status=DeliveryStatus.PENDING)
        values = {
            "lease_owner": "",
            "lease_until": None,
            "tried_at": timezone.now(),
            "took_ms": outcome.took_ms,
            "answer_status": outcome.status,
            "answer": outcome.answer,
            "error": outcome.error[:300],
        }
        if not outcome.error:
            if held.update(status=DeliveryStatus.DONE, **values):
                Webhook.objects.filter(pk=delivery.webhook_id, failing_since__isnull=False).update(failing_since=None)
        elif held.update(**values):
            _failed(delivery, outcome)
        tell_webhook(delivery.webhook)
    return not outcome.error


def _send(delivery: Delivery, by: Fetcher) -> Outcome:
    event, webhook = delivery.event, delivery.webhook
    secrets = secrets_of(webhook)
    if not secrets:
        text = _("The secret cannot be read any more: SECRET_KEY has changed. Make a new webhook.")
        return Outcome(None, "", text, 0)
    body, began = body_of(event), time.monotonic()
    headers = headers_of(event, body=body, secrets=secrets, at=int(time.time()))
    try:
        status, answer = by.post(webhook.url, body, limits=LIMITS, headers=headers)
    except FetchError as error:
        return Outcome(None, "", error.message, _ms_since(began))
    text = answer.decode("utf-8", errors="replace").replace("\x00", "\ufffd")
    return Outcome(status, text, _what_is_wrong(status), _ms_since(began))


def _what_is_wrong(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return _("It answers with a redirect (%(status)s), which is not followed.") % {"status": status}
    return _("It answers with %(status)s.") % {"status": status}


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)


def _failed(delivery: Delivery, outcome: Outcome) -> None:
    """Try it again later, or give up; and switch the webhook off if nothing has arrived there for long."""
    now, webhook = timezone.now(), delivery.webhook
    rows = Delivery.objects.filter(pk=delivery.pk)
    if delivery.attempts >= MOST_ATTEMPTS:
        rows.update(status=DeliveryStatus.FAILED)
    else:
        due = now + dt.timedelta(seconds=wait_s(delivery.attempts))
        rows.update(due_at=due)
        if outcome.status is None or outcome.status >= 500 or outcome.status == 429:
            # It is the receiver that has trouble, not this message: the others would only meet the same.
            others = Delivery.objects.filter(webhook=webhook, status=DeliveryStatus.PENDING, lease_until=None)
            others.filter(due_at__lte=now).update(due_at=min(due, now + HELD_BACK))
    Webhook.objects.filter(pk=webhook.pk, failing_since=None).update(failing_since=now)
    webhook.refresh_from_db()
    since = webhook.failing_since or now
    if outcome.status == 410:
        _stop(webhook, _("The receiver says that it is gone for good (410)."))
    elif now - since >= STOPPED_AFTER:
        days = STOPPED_AFTER.days
        _stop(webhook, _("Nothing has arrived there for %(days)s days: %(why)s") % {"days": days, "why": outcome.error})


def _stop(webhook: Webhook, reason: str) -> None:
    if Webhook.objects.filter(pk=webhook.pk, enabled=True).update(enabled=False, stopped_reason=reason[:300]) == 1:
        audit.record(None, "webhook.stopped", webhook, detail={"reason": reason})
        record(Kind.WEBHOOK_STOPPED, webhook, project=webhook.project_id, data={"reason": reason})


def wait_s(attempts: int) -> float:
    """Before the next one, after so many: 5 s, 20 s, 80 s … 6 h, a fifth more or less, so that no crowd comes back."""
    wait = min(FIRST_WAIT_S * 4.0 ** (attempts - 1), LONGEST_WAIT_S)
    return wait * random.uniform(0.8, 1.2)  # noqa: S311 - a jitter is no secret


# --- the clock ----------------------------------------------------------------------------------------------------


def wake_due(*, most: int = 500) -> int:
    """Wake a worker for each webhook that something is due for: what was lost, what failed, what is put off."""
    now = timezone.now()
    due = Delivery.objects.filter(status=DeliveryStatus.PENDING, due_at__lte=now, webhook__enabled=True)
    free = due.filter(Q(lease_until=None) | Q(lease_until__lt=now))
    hooks = list(free.order_by().values_list("webhook", flat=True).distinct()[:most])
    for webhook_id in hooks:
        wake(webhook_id)
    return len(hooks)


def prune(*, piece: int = 2000) -> int:
    """Remove events older than EVENTS_KEEP_DAYS with their deliveries, in pieces that hold no lock for long."""
    before, gone = timezone.now() - dt.timedelta(days=settings.EVENTS_KEEP_DAYS), 0
    while True:
        old = list(Event.objects.filter(at__lt=before).order_by("at").values_list("pk", flat=True)[:piece])
        with transaction.atomic():
            Delivery.objects.filter(event__in=old).delete()
            gone += Event.objects.filter(pk__in=old).delete()[0]
        if len(old) < piece:
            return gone
