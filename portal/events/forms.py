from typing import Any
from uuid import uuid4

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.events.kinds import CHOICES
from portal.events.models import Webhook
from portal.lib.fetcher import URL_MAX


class WebhookForm(forms.Form):
    """Where to send what. No kind chosen means every kind, those of later releases too."""

    name = forms.CharField(label=_("Name"), max_length=100, help_text=_("For people: what is at the other end."))
    # Checked by the service, whose words say what is wrong with an address.
    url = forms.CharField(
        label=_("Address"),
        max_length=URL_MAX,
        widget=forms.TextInput(
            attrs={
                "inputmode": "url",
                "autocomplete": "off",
                "autocapitalize": "none",
                "spellcheck": "false",
                "placeholder": "https://",
            }
        ),
        help_text=_("Begins with https://. Events are sent there by POST."),
    )
    kinds = forms.MultipleChoiceField(
        label=_("Events"), choices=CHOICES, required=False, widget=forms.CheckboxSelectMultiple
    )
    # What makes a request unique, so that a double click or a retry makes one webhook.
    request_key = forms.UUIDField(required=False, initial=uuid4, widget=forms.HiddenInput)

    @classmethod
    def of(cls, webhook: Webhook, data: Any = None) -> "WebhookForm":
        return cls(data, initial={"name": webhook.name, "url": webhook.url, "kinds": webhook.kinds})
