"""Signing in and out, and one's own password: Django's views in the kit's look."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth import views as auth
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.urls import reverse_lazy
from django.utils.translation import gettext as _

from portal.accounts import throttle
from portal.accounts.http import client_ip


class LoginForm(AuthenticationForm):
    """Django's, which also slows down whoever guesses passwords."""

    def clean(self) -> dict[str, Any]:
        ip = client_ip(self.request) if self.request else None
        attempt = throttle.Attempt(self.cleaned_data.get("username", ""), ip)
        throttle.check(attempt)
        try:
            cleaned: dict[str, Any] = super().clean()
        except ValidationError:
            throttle.record_failure(attempt)
            raise
        throttle.forget(attempt)
        return cleaned


class LoginView(auth.LoginView):
    template_name = "accounts/login.html"
    authentication_form = LoginForm
    redirect_authenticated_user = True


class LogoutView(auth.LogoutView):
    pass


class PasswordChangeView(auth.PasswordChangeView):
    """Django keeps this session and ends all others of the person: their proof holds the old password's hash."""

    template_name = "accounts/password.html"
    success_url = reverse_lazy("machines:list")

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        messages.success(self.request, _("Your password is changed. Other browsers have to sign in again."))
        return response
