"""A project's events, and the webhooks that they are sent to."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in, project_for
from portal.errors import ForbiddenError, PortalError
from portal.events import services
from portal.events.forms import WebhookForm
from portal.events.kinds import AREAS, Kind
from portal.events.models import Webhook
from portal.events.selectors import deliveries_of, delivery_for, find_events, webhook_for, webhooks_of
from portal.events.words import line_of
from portal.lib.paging import page_of, text_of


@require_safe
def event_list(request: HttpRequest, pk: UUID) -> HttpResponse:
    project = project_for(request.user, pk)
    kind, search = text_of(request, "kind"), text_of(request, "q")
    page = page_of(request, find_events(project, kind=kind, search=search))
    context = {
        "project": project,
        "page": page,
        "lines": [line_of(event) for event in page],
        "areas": [(area, label, [k for k in Kind if k.startswith(f"{area}.")]) for area, label in AREAS.items()],
        "kind": kind,
        "search": search,
        "filtered": bool(kind or search),
        "can_manage": Permission.PROJECT_MANAGE in permissions_in(request.user, project.pk),
    }
    return render(request, "events/_list.html" if is_live(request) else "events/list.html", context)


@require_safe
def webhook_list(request: HttpRequest, pk: UUID) -> HttpResponse:
    project = project_for(request.user, pk, Permission.PROJECT_MANAGE)
    context = {"project": project, "webhooks": list(webhooks_of(project))}
    return render(request, "events/_webhooks.html" if is_live(request) else "events/webhooks.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def webhook_new(request: HttpRequest, pk: UUID) -> HttpResponse:
    project = project_for(request.user, pk, Permission.PROJECT_MANAGE)
    form = WebhookForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            webhook = services.add_webhook(
                project,
                actor=person(request),
                name=form.cleaned_data["name"],
                url=form.cleaned_data["url"],
                kinds=form.cleaned_data["kinds"],
                request_key=form.cleaned_data["request_key"],
                request_ip=client_ip(request),
            )
        except PortalError as error:
            _put_error(form, error)
        else:
            messages.success(request, _("%(name)s is there. Try it, to see that it arrives.") % {"name": webhook.name})
            return redirect("events:webhook", pk=webhook.pk)
    context = {"project": project, "form": form}
    return render(request, "events/webhook_form.html", context, status=422 if form.errors else 200)


@require_safe
def webhook_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhook = webhook_for(request.user, pk)
    context = {
        "webhook": webhook,
        "project": webhook.project,
        "page": page_of(request, deliveries_of(webhook)),
        "kinds": [Kind(kind).label for kind in webhook.kinds if kind in Kind.values],
    }
    return render(request, "events/_webhook.html" if is_live(request) else "events/webhook.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def webhook_edit(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhook = webhook_for(request.user, pk)
    form = WebhookForm.of(webhook, request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            services.change_webhook(
                webhook,
                actor=person(request),
                name=form.cleaned_data["name"],
                url=form.cleaned_data["url"],
                kinds=form.cleaned_data["kinds"],
                request_ip=client_ip(request),
            )
        except PortalError as error:
            _put_error(form, error)
        else:
            messages.success(request, _("%(name)s has been changed.") % {"name": form.cleaned_data["name"]})
            return redirect("events:webhook", pk=webhook.pk)
    context = {"project": webhook.project, "webhook": webhook, "form": form}
    return render(request, "events/webhook_form.html", context, status=422 if form.errors else 200)


@require_POST
def webhook_enable(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhook = webhook_for(request.user, pk)
    enabled = request.POST.get("enabled") == "yes"
    services.set_enabled(webhook, actor=person(request), enabled=enabled, request_ip=client_ip(request))
    return redirect("events:webhook", pk=webhook.pk)


@require_POST
def webhook_try(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhook = webhook_for(request.user, pk)
    services.try_webhook(webhook, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("An event to try it is on its way. What comes back shows below."))
    return redirect("events:webhook", pk=webhook.pk)


@require_POST
def webhook_secret(request: HttpRequest, pk: UUID) -> HttpResponse:
    """With a script the answer is the part of the page; without one it is a page."""
    webhook = webhook_for(request.user, pk)
    secret = services.show_secret(webhook, actor=person(request), request_ip=client_ip(request))
    return _shown(request, webhook, secret)


@require_POST
def webhook_new_secret(request: HttpRequest, pk: UUID) -> HttpResponse:
    """It is shown as when it was asked for."""
    webhook = webhook_for(request.user, pk)
    secret = services.change_secret(webhook, actor=person(request), request_ip=client_ip(request))
    webhook.refresh_from_db()
    return _shown(request, webhook, secret)


def _shown(request: HttpRequest, webhook: Webhook, secret: str) -> HttpResponse:
    template = "events/_secret.html" if is_live(request) else "events/secret.html"
    response = render(request, template, {"webhook": webhook, "project": webhook.project, "secret": secret})
    response["Cache-Control"] = "no-store"
    return response


@require_http_methods(["GET", "HEAD", "POST"])
def webhook_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhook = webhook_for(request.user, pk)
    if request.method == "POST":
        project = webhook.project_id
        services.delete_webhook(webhook, actor=person(request), request_ip=client_ip(request))
        messages.success(request, _("%(name)s has been deleted.") % {"name": webhook.name})
        return redirect("events:hooks", pk=project)
    return render(request, "events/webhook_delete.html", {"webhook": webhook, "project": webhook.project})


@require_POST
def delivery_resend(request: HttpRequest, pk: UUID) -> HttpResponse:
    delivery = delivery_for(request.user, pk)
    services.resend(delivery, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("It is sent again."))
    return redirect("events:webhook", pk=delivery.webhook_id)


def _put_error(form: WebhookForm, error: PortalError) -> None:
    if isinstance(error, ForbiddenError):
        raise error
    form.add_error(error.field if error.field in form.fields else None, str(error.message))
