"""Where a project's events are sent to. All of it is for those who manage the project."""

import datetime as dt
from typing import Final, Self
from uuid import UUID

from django.http import HttpRequest
from ninja import Query
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import project_for
from portal.api.core import Guard, operation
from portal.api.operations.events import EventKind
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import HappenedOut, Input, Text
from portal.events import services
from portal.events.kinds import Kind
from portal.events.models import Delivery, DeliveryStatus, Webhook
from portal.events.selectors import deliveries_of, delivery_for, webhook_for, webhooks_of
from portal.lib.fetcher import URL_MAX

TAG: Final = "Webhooks"
MOST_KINDS: Final = len(Kind)


class WebhookOut(BaseModel):
    """`kinds` that are empty mean all. `failing_since`: nothing has arrived since then; `stopped_reason` says why the
    portal switched it off."""

    id: UUID
    name: str
    url: str
    kinds: list[str]
    enabled: bool
    waiting: int = Field(description="So many deliveries are still to be sent.")
    failing_since: dt.datetime | None
    stopped_reason: str
    created_at: dt.datetime
    created_by: str

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """Of one with its count (`webhooks_of`)."""
        return cls(
            id=webhook.pk,
            name=webhook.name,
            url=webhook.url,
            kinds=webhook.kinds,
            enabled=webhook.enabled,
            waiting=getattr(webhook, "waiting", 0),
            failing_since=webhook.failing_since,
            stopped_reason=webhook.stopped_reason,
            created_at=webhook.created_at,
            created_by=webhook.created_by_name,
        )


class WebhookIn(Input):
    name: Text = Field(min_length=1, max_length=100, pattern=r"\S")
    url: Text = Field(max_length=URL_MAX, description="Begins with https://.")
    kinds: list[EventKind] = Field(default=[], max_length=MOST_KINDS, description="Left empty: all, later ones too.")


class WebhookChangeIn(Input):
    """What is left out, or null, stays as it is."""

    name: Text | None = Field(default=None, min_length=1, max_length=100, pattern=r"\S")
    url: Text | None = Field(default=None, max_length=URL_MAX)
    kinds: list[EventKind] | None = Field(default=None, max_length=MOST_KINDS)
    enabled: bool | None = None


class WebhookSecretOut(BaseModel):
    secret: str = Field(description="Empty when it cannot be read any more.")


class DeliveryOut(BaseModel):
    """One event for one webhook, and what came back last."""

    id: UUID
    event: HappenedOut
    status: DeliveryStatus
    attempts: int
    due_at: dt.datetime
    tried_at: dt.datetime | None
    took_ms: int
    answer_status: int | None
    answer: str
    error: str

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        return cls(
            id=delivery.pk,
            event=HappenedOut.of(delivery.event),
            status=DeliveryStatus(delivery.status),
            attempts=delivery.attempts,
            due_at=delivery.due_at,
            tried_at=delivery.tried_at,
            took_ms=delivery.took_ms,
            answer_status=delivery.answer_status,
            answer=delivery.answer,
            error=delivery.error,
        )


@operation(
    "GET",
    "projects/{uuid:pk}/webhooks",
    tag=TAG,
    answers=Listed[WebhookOut],
    pages=("events:hooks",),
    links={"show_webhook": {"pk": "items/0/id"}},
)
def list_webhooks(request: HttpRequest, pk: UUID) -> Listed[WebhookOut]:
    """The webhooks of a project."""
    project = project_for(person(request), pk, Permission.PROJECT_MANAGE)
    return Listed[WebhookOut](items=[WebhookOut.of(one) for one in webhooks_of(project)], next=None)


@operation("GET", "webhooks/{uuid:pk}", tag=TAG, answers=WebhookOut, pages=("events:webhook",))
def show_webhook(request: HttpRequest, pk: UUID) -> WebhookOut:
    """One webhook."""
    return WebhookOut.of(webhooks_of(webhook_for(person(request), pk).project).get(pk=pk))


GUARD: Final = Guard(Webhook, show_webhook)
LINKS: Final = {name: {"pk": "id"} for name in ("show_webhook", "change_webhook", "try_webhook", "list_deliveries")}


@operation(
    "POST",
    "projects/{uuid:pk}/webhooks",
    tag=TAG,
    answers=WebhookOut,
    status=201,
    pages=("events:new",),
    links=LINKS,
)
def add_webhook(request: HttpRequest, pk: UUID, body: WebhookIn) -> WebhookOut:
    """Have a project's events sent to an address. The secret that signs them is made here; ask for it."""
    project = project_for(person(request), pk, Permission.PROJECT_MANAGE)
    webhook = services.add_webhook(
        project,
        actor=person(request),
        name=body.name,
        url=body.url,
        kinds=[kind.value for kind in body.kinds],
        request_ip=client_ip(request),
    )
    return show_webhook(request, webhook.pk)


@operation(
    "PATCH",
    "webhooks/{uuid:pk}",
    tag=TAG,
    answers=WebhookOut,
    pages=("events:webhook-edit", "events:webhook-enable"),
    guards=GUARD,
)
def change_webhook(request: HttpRequest, pk: UUID, body: WebhookChangeIn) -> WebhookOut:
    """Change a webhook, or switch it off and on."""
    user, request_ip = person(request), client_ip(request)
    webhook_for(user, pk)
    # Held, so that what is left out stays as somebody else makes it at this moment.
    Webhook.objects.select_for_update().filter(pk=pk).first()
    webhook = webhook_for(user, pk)
    services.change_webhook(
        webhook,
        actor=user,
        name=webhook.name if body.name is None else body.name,
        url=webhook.url if body.url is None else body.url,
        kinds=webhook.kinds if body.kinds is None else [kind.value for kind in body.kinds],
        request_ip=request_ip,
    )
    if body.enabled is not None:
        services.set_enabled(webhook, actor=user, enabled=body.enabled, request_ip=request_ip)
    return show_webhook(request, pk)


@operation("DELETE", "webhooks/{uuid:pk}", tag=TAG, status=204, pages=("events:webhook-delete",), guards=GUARD)
def delete_webhook(request: HttpRequest, pk: UUID) -> None:
    """Delete a webhook; what waits to be sent to it is not sent any more."""
    services.delete_webhook(webhook_for(person(request), pk), actor=person(request), request_ip=client_ip(request))


@operation("POST", "webhooks/{uuid:pk}/secret", tag=TAG, answers=WebhookSecretOut, pages=("events:webhook-secret",))
def show_webhook_secret(request: HttpRequest, pk: UUID) -> WebhookSecretOut:
    """What its events are signed with. That it was asked for is written down, so this is a POST."""
    webhook = webhook_for(person(request), pk)
    secret = services.show_secret(webhook, actor=person(request), request_ip=client_ip(request))
    return WebhookSecretOut(secret=secret)


@operation(
    "POST",
    "webhooks/{uuid:pk}/secret/new",
    tag=TAG,
    answers=WebhookSecretOut,
    pages=("events:webhook-new-secret",),
    guards=GUARD,
)
def change_webhook_secret(request: HttpRequest, pk: UUID) -> WebhookSecretOut:
    """Have a new secret made. The one before signs as well for a day, so that the receiver can change over."""
    webhook = webhook_for(person(request), pk)
    secret = services.change_secret(webhook, actor=person(request), request_ip=client_ip(request))
    return WebhookSecretOut(secret=secret)


# --- deliveries ---------------------------------------------------------------------------------------------------


@operation(
    "POST",
    "webhooks/{uuid:pk}/test",
    tag=TAG,
    answers=DeliveryOut,
    status=201,
    pages=("events:webhook-try",),
    guards=GUARD,
    links={"show_delivery": {"pk": "id"}, "resend_delivery": {"pk": "id"}},
)
def try_webhook(request: HttpRequest, pk: UUID) -> DeliveryOut:
    """Send an event of no meaning to this webhook alone. Ask for the delivery to see what came back."""
    webhook = webhook_for(person(request), pk)
    delivery = services.try_webhook(webhook, actor=person(request), request_ip=client_ip(request))
    return DeliveryOut.of(delivery)


@operation(
    "GET",
    "webhooks/{uuid:pk}/deliveries",
    tag=TAG,
    answers=Listed[DeliveryOut],
    pages=("events:webhook",),
    links={"show_delivery": {"pk": "items/0/id"}, "resend_delivery": {"pk": "items/0/id"}},
)
def list_deliveries(request: HttpRequest, pk: UUID, page: Query[PageQuery]) -> Listed[DeliveryOut]:
    """What was sent to a webhook or will be, newest event first, with what came back."""
    return page_of(deliveries_of(webhook_for(person(request), pk)), page, "-event_id").shown(DeliveryOut.of)


@operation("GET", "deliveries/{uuid:pk}", tag=TAG, answers=DeliveryOut, pages=("events:webhook",))
def show_delivery(request: HttpRequest, pk: UUID) -> DeliveryOut:
    """One delivery."""
    return DeliveryOut.of(delivery_for(person(request), pk))


@operation(
    "POST",
    "deliveries/{uuid:pk}/resend",
    tag=TAG,
    answers=DeliveryOut,
    pages=("events:delivery-resend",),
    guards=Guard(Delivery, show_delivery),
)
def resend_delivery(request: HttpRequest, pk: UUID) -> DeliveryOut:
    """Send it once more, whether it arrived or was given up. It keeps its id."""
    delivery = delivery_for(person(request), pk)
    services.resend(delivery, actor=person(request), request_ip=client_ip(request))
    return show_delivery(request, pk)
