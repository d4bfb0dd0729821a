"""Deployments as pages: the list, a new one, and the wall of one with all its screens."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import projects_for
from portal.deployments import services
from portal.deployments.forecast import Forecast, forecast
from portal.deployments.forms import DeploymentForm, MessageForm
from portal.deployments.lists import as_text, groups_for
from portal.deployments.models import Deployment
from portal.deployments.selectors import (
    CONDITION_WORDS,
    counts_of,
    deployment_for,
    deployments_for,
    may,
    own_seats,
    panes_of,
    seat_for,
    seats_of,
)
from portal.errors import PortalError
from portal.images.models import Image, ImageVersion
from portal.lib.paging import page_of, text_of
from portal.machines.launch import Tile, project_to_launch_in, tiles_for


@require_safe
def deployment_list(request: HttpRequest) -> HttpResponse:
    user = person(request)
    search = text_of(request, "q")
    context = {
        "page": page_of(request, deployments_for(user, search=search)),
        "search": search,
        "own": panes_of(user, own_seats(user)) if not search else [],
        "may_make": projects_for(user, Permission.PROJECT_MANAGE).exists(),
    }
    return render(request, "deployments/_list.html" if is_live(request) else "deployments/list.html", context)


# --- a new one ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Offer:
    """What can be made in the project that is chosen."""

    projects: list[Project]
    project: Project
    tiles: list[Tile]

    @property
    def images(self) -> list[UUID]:
        return [tile.image.pk for tile in self.tiles if tile.version]

    def version_of(self, image: Image) -> ImageVersion:
        version = next(tile.version for tile in self.tiles if tile.image == image)
        assert version is not None  # noqa: S101 - the form offers only images that have one
        return version


@require_http_methods(["GET", "HEAD", "POST"])
def deployment_new(request: HttpRequest) -> HttpResponse:
    """Checked first: the page comes back with who is meant and whether there is room, and a button that makes it."""
    user = person(request)
    projects = list(projects_for(user, Permission.PROJECT_MANAGE))
    if not projects:
        return render(request, "deployments/new_nowhere.html", status=403 if request.method == "POST" else 200)
    values = request.POST if request.method == "POST" else request.GET
    project = project_to_launch_in(user, projects, values.get("project"))
    offer = _Offer(projects, project, tiles_for(user, project))
    if request.method != "POST":
        initial = {"project": project.pk, "image": next(iter(offer.images), None)}
        form = _form(user, offer, initial=initial)
        return render(request, "deployments/new.html", {"form": form, "offer": offer})
    form = _form(user, offer, data=request.POST, files=request.FILES)
    if not form.is_valid():
        return render(request, "deployments/new.html", {"form": form, "offer": offer}, status=422)
    if request.POST.get("step") == "make":
        made = _make(request, form, offer)
        if made is not None:
            return redirect("deployments:detail", pk=made.pk)
    return _checked(request, user, form, offer)


def _form(user: User, offer: _Offer, **values: object) -> DeploymentForm:
    return DeploymentForm(
        projects=projects_for(user, Permission.PROJECT_MANAGE),
        images=Image.objects.filter(pk__in=offer.images),
        groups=groups_for(user),
        **values,
    )


def _checked(request: HttpRequest, user: User, form: DeploymentForm, offer: _Offer) -> HttpResponse:
    """What was uploaded, or is a group's, stands in the list from now on: nothing has to be sent once more."""
    shown = form
    if not form.errors:
        data = {**request.POST.dict(), "people": as_text(form.names), "group": ""}
        shown = _form(user, offer, data=data)
        shown.is_valid()
    context = {
        "form": shown,
        "offer": offer,
        "entries": form.entries,
        "with_account": sum(entry.person is not None for entry in form.entries),
        "forecast": _forecast(form),
    }
    return render(request, "deployments/new.html", context, status=422 if form.errors else 200)


def _forecast(form: DeploymentForm) -> Forecast:
    data = form.cleaned_data
    return forecast(data["project"], data["flavour"], len(form.entries))


def _make(request: HttpRequest, form: DeploymentForm, offer: _Offer) -> Deployment | None:
    """The deployment, or None with the reason in the form, at the field it belongs to."""
    data = form.cleaned_data
    plan = services.Plan(data["name"], data["called"], offer.version_of(data["image"]), data["flavour"])
    try:
        return services.make_deployment(
            data["project"],
            actor=person(request),
            plan=plan,
            people=form.entries,
            whole=form.is_whole,
            request_key=data["request_key"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        # `cleaned_data` loses the field that an error is at, and the page still shows what was checked.
        kept = dict(data)
        field = "called" if error.field == "prefix" else error.field
        form.add_error(field if field in form.fields else None, str(error.message))
        form.cleaned_data = kept
        return None


# --- the wall -----------------------------------------------------------------------------------------------------


@require_safe
def deployment_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    user = person(request)
    deployment = deployment_for(user, pk)
    search, state = text_of(request, "q"), text_of(request, "state")
    context = {
        "deployment": deployment,
        "panes": panes_of(user, seats_of(deployment, search=search, state=state)),
        "counts": counts_of(deployment),
        "may": may(user, deployment),
        "search": search,
        "state": state,
        "states": CONDITION_WORDS,
        "filtered": bool(search or state),
        "request_key": uuid4(),
        "message_form": MessageForm(auto_id="message_%s"),
    }
    return render(request, "deployments/_wall.html" if is_live(request) else "deployments/detail.html", context)


@require_safe
def seat_pane(request: HttpRequest, pk: UUID) -> HttpResponse:
    """One seat's card again, after something happened to its desktop or at its screen."""
    user = person(request)
    seat = seat_for(user, pk)
    [pane] = panes_of(user, [seat])
    context = {"pane": pane, "may": may(user, seat.deployment), "deployment": seat.deployment}
    return render(request, "deployments/_pane.html", context | {"request_key": uuid4()})
