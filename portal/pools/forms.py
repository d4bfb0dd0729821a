"""What operators type about pools. Rules that hold whoever asks are in `services`; here is only the pages' share."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from functools import lru_cache
from typing import Any, Final
from uuid import uuid4

from django import forms
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project
from portal.errors import PortalError
from portal.images.models import ImageVersion, VersionStatus
from portal.machines.models import Flavour
from portal.pools.models import Pool
from portal.pools.services import MOST_DESKTOPS, MOST_MESSAGE, MOST_PER_PERSON, SETTINGS, Hours
from portal.pools.states import PoolKind, Recompose

_PLAIN: Final = {"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}
MOST_MINUTES: Final = 7 * 24 * 60
WEEKDAYS: Final = [
    (0, _("Monday")),
    (1, _("Tuesday")),
    (2, _("Wednesday")),
    (3, _("Thursday")),
    (4, _("Friday")),
    (5, _("Saturday")),
    (6, _("Sunday")),
]
MINUTES: Final = {
    "idle_warn_min": "idle_warn_s",
    "idle_disconnect_min": "idle_disconnect_s",
    "idle_sign_out_min": "idle_sign_out_s",
    "limit_min": "limit_s",
}


@lru_cache(maxsize=1)
def time_zones() -> list[tuple[str, str]]:
    """All that the system knows, UTC first."""
    return [(name, name) for name in ["UTC", *sorted(zoneinfo.available_timezones() - {"UTC", "localtime"})]]


def _minutes(label: Any, help_text: Any) -> forms.IntegerField:
    return forms.IntegerField(label=label, help_text=help_text, min_value=0, max_value=MOST_MINUTES, initial=0)


class PoolForm(forms.Form):
    """A pool's settings. Its kind, project and short name are for good; its image changes on its page.

    `request_key` makes a request unique, so that a double click or a retry makes one pool.
    """

    request_key = forms.UUIDField(required=False, initial=uuid4, widget=forms.HiddenInput)

    title = forms.CharField(label=_("Name"), max_length=100, help_text=_("People see it on the desktop's tile."))
    name = forms.SlugField(
        label=_("Short name"),
        max_length=40,
        widget=forms.TextInput(attrs=_PLAIN),
        help_text=_("Small letters, digits and hyphens. It stands in the desktop's address."),
    )
    kind = forms.ChoiceField(
        label=_("Kind"), choices=PoolKind.choices, initial=PoolKind.FLOATING, widget=forms.RadioSelect
    )
    project = forms.ModelChoiceField(
        label=_("Project"),
        queryset=Project.objects.none(),
        empty_label=None,
        help_text=_("Its machines live there, and count against its quota."),
    )
    image_version = forms.ModelChoiceField(
        label=_("Image"), queryset=ImageVersion.objects.none(), empty_label=None, help_text=_("Ready versions only.")
    )
    flavour = forms.ModelChoiceField(label=_("Size"), queryset=Flavour.objects.none(), empty_label=None)
    name_pattern = forms.CharField(
        label=_("Names of its machines"),
        max_length=50,
        required=False,
        widget=forms.TextInput(attrs=_PLAIN),
        help_text=_("{n} becomes the desktop's number. Left empty, it is the short name, a hyphen and the number."),
    )
    minimum = forms.IntegerField(
        label=_("At least"), min_value=0, max_value=MOST_DESKTOPS, initial=0, help_text=_("There are always so many.")
    )
    maximum = forms.IntegerField(
        label=_("At most"), min_value=1, max_value=MOST_DESKTOPS, initial=10, help_text=_("Beyond it, people wait.")
    )
    spare = forms.IntegerField(
        label=_("Spare"), min_value=0, max_value=MOST_DESKTOPS, initial=1, help_text=_("So many are ready and free.")
    )
    desktops_per_person = forms.IntegerField(
        label=_("For each person"), min_value=1, max_value=MOST_PER_PERSON, initial=1
    )
    time_zone = forms.ChoiceField(label=_("Time zone"), choices=time_zones, initial="UTC")
    idle_warn_min = _minutes(_("Warn when idle"), _("Nothing was typed or moved."))
    idle_disconnect_min = _minutes(_("Disconnect"), _("After the warning. It goes on running."))
    idle_sign_out_min = _minutes(_("Sign out"), _("After the disconnect."))
    limit_min = _minutes(_("Longest session"), _("From its beginning."))
    keeps_files = forms.BooleanField(
        label=_("People's files follow them"),
        required=False,
        initial=True,
        help_text=_("Each person's own volume is brought to the desktop that they are on, as the folder Files."),
    )
    enabled = forms.BooleanField(label=_("Offered to the people who may use it"), required=False, initial=True)

    def __init__(self, *args: Any, pool: Pool | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        flavours = Flavour.objects.filter(enabled=True)
        if pool is None:
            _choose_from(self, "project", Project.objects.order_by("name"))
            _choose_from(self, "image_version", versions_to_choose())
        else:
            for name in ("name", "kind", "project", "image_version"):
                del self.fields[name]
            flavours |= Flavour.objects.filter(pk=pool.flavour_id)
        _choose_from(self, "flavour", flavours)

    @classmethod
    def of(cls, pool: Pool) -> PoolForm:
        initial = {name: getattr(pool, name) for name in cls.base_fields if hasattr(pool, name)}
        initial |= {name: getattr(pool, field) // 60 for name, field in MINUTES.items()}
        return cls(pool=pool, initial=initial)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        least, most = data.get("minimum"), data.get("maximum")
        if least is not None and most is not None and least > most:
            self.add_error("minimum", _now("It cannot be more than “At most”."))
        version, project = data.get("image_version"), data.get("project")
        if version and project and version.image.project_id not in {None, project.pk}:
            self.add_error("image_version", _now("This image is another project's."))
        return data

    def settings(self) -> dict[str, Any]:
        """Those of services.SETTINGS, seconds for minutes. An empty pattern is the service's to fill."""
        data = {name: self.cleaned_data[name] for name in SETTINGS if name in self.cleaned_data}
        if not data["name_pattern"]:
            del data["name_pattern"]
        return data | {field: self.cleaned_data[name] * 60 for name, field in MINUTES.items()}

    def field_of(self, error: PortalError) -> str | None:
        """At which field a service's refusal belongs."""
        name = next((ours for ours, theirs in MINUTES.items() if theirs == error.field), error.field)
        return name if name in self.fields else None


def versions_to_choose(project: Project | None = None) -> Any:
    """Image versions that desktops can be made from, the newest of each image first."""
    found = ImageVersion.objects.filter(status=VersionStatus.READY, image__isnull=False).select_related("image")
    if project is not None:
        found = found.filter(image__project=None) | found.filter(image__project=project)
    return found.order_by("image__title", "-number")


def _choose_from(form: forms.Form, name: str, queryset: Any) -> None:
    field = form.fields[name]
    assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
    field.queryset = queryset


class PlaceForm(forms.Form):
    of = forms.UUIDField()


class EntitlementForm(forms.Form):
    """One of the three; what is typed is a user name or e-mail address, or the name of a project or group."""

    what = forms.ChoiceField(
        label=_("Let in"),
        choices=[("user", _("One person")), ("project", _("A project")), ("group", _("A group"))],
    )
    who = forms.CharField(label=_("Name"), max_length=254, widget=forms.TextInput(attrs=_PLAIN))


class EntitlementRemoveForm(forms.Form):
    entitlement = forms.IntegerField(min_value=1, max_value=2**63 - 1)


class HoursForm(forms.Form):
    """The same hours on several days. `to_time` of 00:00 is the end of the day."""

    weekdays = forms.TypedMultipleChoiceField(
        label=_("Days"), choices=WEEKDAYS, coerce=int, widget=forms.CheckboxSelectMultiple
    )
    from_time = forms.TimeField(label=_("From"), initial=dt.time(7), input_formats=["%H:%M", "%H:%M:%S"])
    to_time = forms.TimeField(
        label=_("To"), initial=dt.time(18), input_formats=["%H:%M", "%H:%M:%S"], help_text=_("00:00 is midnight.")
    )
    spare = forms.IntegerField(label=_("Spare"), min_value=0, max_value=MOST_DESKTOPS, initial=5)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if "from_time" in data and "to_time" in data and self.minutes()[0] >= self.minutes()[1]:
            self.add_error("to_time", _now("It must be later than “From”."))
        return data

    def hours(self) -> list[Hours]:
        begin, end = self.minutes()
        return [Hours(day, begin, end, self.cleaned_data["spare"]) for day in self.cleaned_data["weekdays"]]

    def minutes(self) -> tuple[int, int]:
        """From and to, as minutes of the day."""
        begin, end = self.cleaned_data["from_time"], self.cleaned_data["to_time"]
        return begin.hour * 60 + begin.minute, end.hour * 60 + end.minute or 24 * 60


class HoursRemoveForm(forms.Form):
    hours = forms.IntegerField(min_value=1, max_value=2**63 - 1)


class MessageForm(forms.Form):
    text = forms.CharField(
        label=_("What they are to know"),
        max_length=MOST_MESSAGE,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("It stands on the screens of all who are on a desktop of this pool or wait for one."),
    )


class RecomposeForm(forms.Form):
    """Which version, and how the desktops come to it."""

    version = forms.ModelChoiceField(
        label=_("Version"),
        queryset=ImageVersion.objects.none(),
        empty_label=None,
        error_messages={"invalid_choice": _("This version is not there any more.")},
    )
    how = forms.ChoiceField(label=_("How"), choices=Recompose.choices, initial=Recompose.ROLLING)
    at = forms.DateTimeField(
        label=_("When, in UTC (only “At a time”)"),
        required=False,
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"],
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )

    def __init__(self, *args: Any, pool: Pool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _choose_from(self, "version", versions_to_choose(pool.project))

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("how") == Recompose.AT_TIME and not data.get("at") and "at" not in self.errors:
            self.add_error("at", _now("Say when."))
        return data
