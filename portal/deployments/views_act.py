"""What is asked of a deployment's desktops and people: start, shut down, reset, message, links, step in, remove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.deployments import access, acting, services
from portal.deployments.acting import ACTS, Act
from portal.deployments.forecast import forecast
from portal.deployments.forms import LinksForm, MessageForm, PeopleForm
from portal.deployments.lists import MOST_PEOPLE, groups_for
from portal.deployments.models import Deployment, Seat
from portal.deployments.selectors import chosen_of, deployment_for, seat_for, seats_of
from portal.errors import InvalidError, PortalError
from portal.machines.models import Batch


@require_POST
def act(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Of the seats that are named, or of all. What loses something is asked for once more."""
    word = request.POST.get("action", "")
    wanted = ACTS.get(word)
    if wanted is None:
        deployment_for(request.user, pk, Permission.MACHINE_OPERATE)
        raise InvalidError(_("Choose what to do."))
    deployment = deployment_for(request.user, pk, wanted.permission)
    seats = chosen_of(deployment, request.POST.getlist("seat"))
    if wanted.warns and request.POST.get("sure") != "yes":
        return _ask(request, deployment, word, wanted, seats)
    batch = acting.act(
        deployment,
        word,
        seats,
        actor=person(request),
        request_id=_request_id(request),
        request_ip=client_ip(request),
    )
    return _after(request, deployment, batch, wanted)


def _ask(request: HttpRequest, deployment: Deployment, word: str, wanted: Act, seats: Sequence[Seat]) -> HttpResponse:
    context = {
        "deployment": deployment,
        "seats": seats,
        "action": word,
        "words": wanted.words,
        "all": not request.POST.getlist("seat"),
        "request_key": _request_id(request),
    }
    return render(request, "deployments/confirm.html", context)


def _after(request: HttpRequest, deployment: Deployment, batch: Batch, wanted: Act) -> HttpResponse:
    """Refusals are read one by one; where there are none the wall itself shows how it goes on."""
    items = list(batch.items.all())
    refused = sum(bool(item.refusal) for item in items)
    if refused:
        return redirect("machines:many-result", pk=batch.pk)
    text = ngettext("%(words)s: asked of %(number)s desktop.", "%(words)s: asked of %(number)s desktops.", len(items))
    messages.success(request, text % {"words": wanted.words, "number": len(items)})
    return redirect("deployments:detail", pk=deployment.pk)


def _request_id(request: HttpRequest) -> UUID:
    try:
        return UUID(request.POST.get("request_key", "")) if "request_key" in request.POST else uuid4()
    except ValueError as error:
        raise InvalidError(_("This request cannot be read. Go back to the page and try again.")) from error


@require_POST
def message(request: HttpRequest, pk: UUID) -> HttpResponse:
    deployment = deployment_for(request.user, pk, Permission.MACHINE_CONSOLE)
    form = MessageForm({"text": "" if request.POST.get("away") else request.POST.get("text", "")})
    if not form.is_valid():
        raise InvalidError(" ".join(map(str, form.errors["text"])), field="text")
    text = form.cleaned_data["text"]
    if not text and not request.POST.get("away"):
        raise InvalidError(_("Write a message first."), field="text")
    seats = chosen_of(deployment, request.POST.getlist("seat"))
    told = acting.tell(deployment, seats, actor=person(request), text=text, request_ip=client_ip(request))
    if text:
        said = ngettext("It stands on %(number)s screen now.", "It stands on %(number)s screens now.", told)
        messages.success(request, said % {"number": told})
    else:
        messages.success(request, _("The message is taken away."))
    return redirect("deployments:detail", pk=deployment.pk)


@require_http_methods(["GET", "HEAD", "POST"])
def people(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Add people. Each gets a desktop of what the others have."""
    deployment = deployment_for(request.user, pk, Permission.PROJECT_MANAGE)
    user = person(request)
    if request.method != "POST":
        return _people_page(request, deployment, PeopleForm(groups=groups_for(user)))
    form = PeopleForm(request.POST, request.FILES, groups=groups_for(user))
    if form.is_valid():
        try:
            seats = services.add_people(
                deployment, actor=user, people=form.entries, whole=form.is_whole, request_ip=client_ip(request)
            )
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error.message))
        else:
            text = ngettext("%(number)s person was added.", "%(number)s people were added.", len(seats))
            said = text % {"number": len(seats)} if seats else _("All of them have a desktop here already.")
            messages.success(request, said)
            return redirect("deployments:detail", pk=deployment.pk)
    return _people_page(request, deployment, form, status=422)


def _people_page(request: HttpRequest, deployment: Deployment, form: PeopleForm, *, status: int = 200) -> HttpResponse:
    room = forecast(deployment.project, deployment.flavour, MOST_PEOPLE - deployment.seats.count())
    context = {"deployment": deployment, "form": form, "room": room.fitting}
    return render(request, "deployments/people.html", context, status=status)


@dataclass(frozen=True, slots=True)
class Line:
    """A person and their link, on the one page that ever shows it."""

    label: str
    url: str


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def links(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Links for those who have no account. The answer is the only place where they ever stand."""
    deployment = deployment_for(request.user, pk, Permission.PROJECT_MANAGE)
    form = LinksForm(request.POST or None)
    made: list[Line] = []
    if request.method == "POST":
        if not form.is_valid():
            raise InvalidError(_("Choose for how long."), field="lifetime")
        seats = [seat for seat in chosen_of(deployment, request.POST.getlist("seat")) if seat.person_id is None]
        new = access.make_links(
            deployment,
            seats,
            actor=person(request),
            lifetime=form.lifetime_wanted(),
            request_ip=client_ip(request),
        )
        made = [Line(link.seat.label, address_of(request, link.token)) for link in new]
    context = {
        "deployment": deployment,
        "form": form if form.is_bound else LinksForm(),
        "made": made,
        "seats": list(seats_of(deployment).filter(person=None)),
        "table": "\n".join(f"{_cell(line.label)},{line.url}" for line in made),
    }
    return render(request, "deployments/links.html", context)


def address_of(request: HttpRequest, token: str) -> str:
    return request.build_absolute_uri(reverse("deployments:shared", args=[token]))


def _cell(text: str) -> str:
    """For a table that a spreadsheet opens: what looks like a formula is none."""
    safe = f"'{text}" if text[:1] in "=+-@\t" else text
    doubled = safe.replace('"', '""')
    return f'"{doubled}"'


@require_POST
def seat_unlink(request: HttpRequest, pk: UUID) -> HttpResponse:
    seat = seat_for(request.user, pk, Permission.PROJECT_MANAGE)
    access.revoke_link(seat, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("%(person)s's link does not work any more.") % {"person": seat.label})
    return redirect("deployments:links", pk=seat.deployment_id)


@require_POST
def seat_step(request: HttpRequest, pk: UUID) -> HttpResponse:
    """To a person's screen: to look, or to work on it."""
    seat = seat_for(request.user, pk)
    control = request.POST.get("mode") == "control"
    machine = acting.step_in(seat, actor=person(request), control=control, request_ip=client_ip(request))
    return redirect(reverse("console:screen", args=[machine.pk]) + ("?take=1" if control else "?watch=1"))


@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    """All its desktops, and then itself."""
    deployment = deployment_for(request.user, pk, Permission.MACHINE_DELETE)
    seats = list(seats_of(deployment))
    if request.method != "POST":
        context = {"deployment": deployment, "seats": seats, "action": "delete", "all": True, "request_key": uuid4()}
        return render(request, "deployments/confirm.html", context | {"words": _("Delete")})
    require(person(request), deployment.project_id, Permission.MACHINE_DELETE)
    batch, is_gone = acting.delete_all(
        deployment, seats, actor=person(request), request_id=_request_id(request), request_ip=client_ip(request)
    )
    if not is_gone:
        return redirect("machines:many-result", pk=batch.pk)
    messages.success(request, _("%(name)s and its desktops are being deleted.") % {"name": deployment.name})
    return redirect("deployments:list")
