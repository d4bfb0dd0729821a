import datetime as dt
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import ApiToken, Project, User
from portal.accounts.selectors import roles_of

LIFETIMES = {
    "7": (_("7 days"), dt.timedelta(days=7)),
    "30": (_("30 days"), dt.timedelta(days=30)),
    "90": (_("90 days"), dt.timedelta(days=90)),
    "365": (_("A year"), dt.timedelta(days=365)),
}


class TokenForm(forms.Form):
    name = forms.CharField(
        label=_("Name"),
        max_length=100,
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": _("backup script")}),
        help_text=_("What it is for, so that you know later which one to revoke."),
    )
    scope = forms.ChoiceField(
        label=_("It may"), choices=ApiToken.Scope.choices, initial=ApiToken.Scope.READ, widget=forms.RadioSelect
    )
    project = forms.ModelChoiceField(
        label=_("Only in the project"),
        queryset=Project.objects.none(),
        required=False,
        empty_label=_("Everything that you may"),
    )
    lifetime = forms.ChoiceField(
        label=_("It ends after"), choices=[(key, words) for key, (words, _time) in LIFETIMES.items()], initial="90"
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        project = self.fields["project"]
        assert isinstance(project, forms.ModelChoiceField)  # noqa: S101 - tells mypy which field this is
        project.queryset = Project.objects.filter(pk__in=roles_of(user)).order_by("name")

    def scope_wanted(self) -> ApiToken.Scope:
        return ApiToken.Scope(self.cleaned_data["scope"])

    def lifetime_wanted(self) -> dt.timedelta:
        return LIFETIMES[self.cleaned_data["lifetime"]][1]


class TokenRevokeForm(forms.Form):
    token = forms.UUIDField()
