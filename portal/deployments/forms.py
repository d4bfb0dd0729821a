"""What people type about deployments. Rules that hold whoever asks are in `services`; here is only the page's share."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import uuid4

from django import forms
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project
from portal.console.notices import MOST as MOST_MESSAGE
from portal.deployments import lists
from portal.deployments.lists import Entry
from portal.deployments.services import MOST_NAME, MOST_PREFIX
from portal.errors import InvalidError
from portal.images.models import Image
from portal.lib.units import format_mib
from portal.machines.models import Flavour
from portal.machines.selectors import flavours

_PLAIN = {"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}
LIFETIMES = {
    "1d": (_("1 day"), dt.timedelta(days=1)),
    "1w": (_("1 week"), dt.timedelta(weeks=1)),
    "30d": (_("30 days"), dt.timedelta(days=30)),
    "180d": (_("180 days"), dt.timedelta(days=180)),
}


class PeopleForm(forms.Form):
    """The list: typed or pasted, uploaded, a group's members, or all of these together."""

    people = forms.CharField(
        label=_("People"),
        required=False,
        max_length=lists.MOST_BYTES,
        widget=forms.Textarea(attrs={"rows": 8, **_PLAIN}),
        help_text=_("User names or e-mail addresses, one a line. Who has no account gets a link."),
    )
    file = forms.FileField(
        label=_("Or a file"),
        required=False,
        help_text=_("A CSV table, as spreadsheets save it, or a text with one person a line."),
        widget=forms.FileInput(attrs={"accept": ".csv,.tsv,.txt,text/csv,text/plain"}),
    )
    group = forms.ModelChoiceField(
        label=_("Or a group"), required=False, queryset=Group.objects.none(), empty_label=_("No group")
    )
    whole = forms.ChoiceField(
        label=_("If there is no room for all of them"),
        choices=[("yes", _("Make none, and say what is missing")), ("no", _("Make as many as there is room for"))],
        initial="yes",
        widget=forms.RadioSelect,
    )

    def __init__(self, *args: Any, groups: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["group"]
        assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
        field.queryset = groups
        self.entries: list[Entry] = []
        self.names: list[str] = []

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        try:
            typed = lists.names_in(data.get("people") or "")
            sent = lists.names_in(lists.decoded(data["file"].read())) if data.get("file") else []
            grouped = lists.members_of(data["group"]) if data.get("group") else []
            self.names = lists.together([*typed, *sent, *grouped])
            self.entries = lists.entries_of(self.names)
        except InvalidError as error:
            self.add_error(error.field if error.field in self.fields else "people", str(error.message))
        else:
            if not self.entries and not self.errors:
                self.add_error("people", _("Name at least one person."))
        return data

    @property
    def is_whole(self) -> bool:
        return bool(self.cleaned_data.get("whole") != "no")


class DeploymentForm(PeopleForm):
    project = forms.ModelChoiceField(label=_("Project"), queryset=Project.objects.none(), empty_label=None)
    name = forms.CharField(
        label=_("Name"), max_length=MOST_NAME, help_text=_("Such as “Chemistry, 10b”."), widget=forms.TextInput(_PLAIN)
    )
    called = forms.SlugField(
        label=_("Desktops are called"),
        max_length=MOST_PREFIX,
        initial="desktop",
        help_text=_("With a number behind it: lab-1, lab-2 and so on."),
        widget=forms.TextInput(attrs=_PLAIN),
    )
    image = forms.ModelChoiceField(label=_("Image"), queryset=Image.objects.none(), empty_label=None)
    flavour = forms.ModelChoiceField(label=_("Size of each"), queryset=Flavour.objects.none(), empty_label=None)
    request_key = forms.UUIDField(initial=uuid4, widget=forms.HiddenInput)

    def __init__(self, *args: Any, projects: Any, images: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, queryset in (("project", projects), ("image", images), ("flavour", flavours())):
            field = self.fields[name]
            assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
            field.queryset = queryset
        sizes = self.fields["flavour"]
        sizes.label_from_instance = _size  # type: ignore[attr-defined]  # ModelChoiceField's own way to say it

    def clean_called(self) -> str:
        prefix: str = self.cleaned_data["called"].lower()
        if not prefix.strip("-_"):
            raise ValidationError(_("Use letters, digits and hyphens."))
        return prefix


def _size(flavour: Flavour) -> str:
    return f"{flavour.title}: {flavour.vcpus} vCPU, {format_mib(flavour.memory_mib)}, {flavour.disk_gib} GiB"


class MessageForm(forms.Form):
    text = forms.CharField(
        label=_("Message"),
        required=False,
        max_length=MOST_MESSAGE,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=_("It stands over their screens for an hour, or until the next one."),
    )


class LinksForm(forms.Form):
    lifetime = forms.ChoiceField(
        label=_("They work for"), choices=[(key, words) for key, (words, _time) in LIFETIMES.items()], initial="1w"
    )

    def lifetime_wanted(self) -> dt.timedelta:
        return LIFETIMES[self.cleaned_data["lifetime"]][1]
