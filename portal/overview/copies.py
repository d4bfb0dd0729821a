"""For operators: running copies that new machines are forked from, and which of them are to be kept ready."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST, require_safe

from portal.accounts.http import client_ip, is_live, operators_only, person
from portal.errors import InvalidError
from portal.images.models import Image
from portal.jobs.models import Job, JobStep
from portal.jobs.selectors import active_jobs_of, current_step, overall_progress
from portal.lib.paging import page_of, text_of
from portal.machines.models import Flavour
from portal.parents import services
from portal.parents.models import Parent, ParentWish
from portal.parents.selectors import Size, forkable_images, parent_for, parents_for, wish_for, wishes_for
from portal.parents.states import State


class KeepForm(forms.Form):
    """Of which image, and in which size."""

    image = forms.ModelChoiceField(Image.objects.none(), label=gettext_lazy("Image"))
    flavour = forms.ModelChoiceField(Flavour.objects.none(), label=gettext_lazy("Size"))

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed through
        self.fields["image"].queryset = forkable_images()  # type: ignore[attr-defined]  # of a ModelChoiceField
        self.fields["flavour"].queryset = Flavour.objects.filter(enabled=True)  # type: ignore[attr-defined]  # as above


@dataclass(frozen=True, slots=True)
class ParentRow:
    parent: Parent
    job: Job | None

    @property
    def step(self) -> JobStep | None:
        return current_step(self.job) if self.job else None

    @property
    def progress(self) -> int:
        return overall_progress(self.job) if self.job else 0

    @property
    def is_given_up(self) -> bool:
        return self.parent.state == State.FAILED and self.parent.failures >= services.MOST_FAILURES


@dataclass(frozen=True, slots=True)
class WishRow:
    """`size` is the offered size that it is, if it is one; `ready` of `number` hosts have one that can be used."""

    wish: ParentWish
    size: str
    ready: int
    number: int


@require_safe
@operators_only
def copy_list(request: HttpRequest) -> HttpResponse:
    page = page_of(request, parents_for(request.user))
    jobs = active_jobs_of("parent", [parent.pk for parent in page.object_list])
    context = {
        "page": page,
        "rows": [ParentRow(parent, jobs.get(parent.pk)) for parent in page.object_list],
        "wishes": _wish_rows(list(wishes_for(request.user))),
        "images": forkable_images(),
        "flavours": Flavour.objects.filter(enabled=True),
        "chosen": text_of(request, "image"),
    }
    return render(request, "hosts/_copies.html" if is_live(request) else "hosts/copies.html", context)


def _wish_rows(wishes: list[ParentWish]) -> list[WishRow]:
    titles = {(flavour.vcpus, flavour.memory_mib, flavour.disk_gib): flavour.title for flavour in Flavour.objects.all()}
    kept = list(
        Parent.objects.filter(image_version__image__in=[wish.image_id for wish in wishes])
        .exclude(state__in=[State.RETIRING, State.DELETED])
        .values_list("image_version__image", "vcpus", "memory_mib", "disk_gib", "state")
    )
    rows = []
    for wish in wishes:
        size = (wish.vcpus, wish.memory_mib, wish.disk_gib)
        states = [state for image, *its, state in kept if (image, tuple(its)) == (wish.image_id, size)]
        rows.append(WishRow(wish, titles.get(size, ""), states.count(State.READY), len(states)))
    return rows


@require_POST
@operators_only
def copy_keep(request: HttpRequest) -> HttpResponse:
    form = KeepForm(request.POST)
    if not form.is_valid():
        raise InvalidError(_("Choose an image that can be kept running, and a size."))
    image, flavour = form.cleaned_data["image"], form.cleaned_data["flavour"]
    size = Size(flavour.vcpus, flavour.memory_mib, flavour.disk_gib)
    services.add_wish(image, actor=person(request), size=size, request_ip=client_ip(request))
    said = _("A running copy of %(image)s is made and kept ready. The first one is there within minutes.")
    messages.success(request, said % {"image": image.title})
    return redirect("hosts:copies")


@require_POST
def copy_no_longer(request: HttpRequest, pk: UUID) -> HttpResponse:
    wish = wish_for(request.user, pk)
    services.remove_wish(wish, actor=person(request), request_ip=client_ip(request))
    said = _("No running copy of %(image)s is kept for this any more. It goes when nothing uses it.")
    messages.success(request, said % {"image": wish.image.title})
    return redirect("hosts:copies")


@require_POST
def copy_again(request: HttpRequest, pk: UUID) -> HttpResponse:
    parent = parent_for(request.user, pk)
    services.request_again(parent, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("The running copy is being made again."))
    return redirect("hosts:copies")
