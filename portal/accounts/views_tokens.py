"""One's own API tokens."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts import tokens
from portal.accounts.http import client_ip, person
from portal.accounts.token_forms import TokenForm, TokenRevokeForm
from portal.errors import NotFoundError, PortalError


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def token_list(request: HttpRequest) -> HttpResponse:
    """The answer to a POST is the only place where a token ever stands."""
    user = person(request)
    form = TokenForm(request.POST, user=user) if request.method == "POST" else TokenForm(user=user)
    secret = _made(request, form) if form.is_valid() else ""
    status = 422 if form.errors else 200
    if secret:
        form = TokenForm(user=user)
    context = {"tokens": list(tokens.tokens_of(user)), "form": form, "secret": secret, "now": timezone.now()}
    return render(request, "accounts/tokens.html", context, status=status)


def _made(request: HttpRequest, form: TokenForm) -> str:
    """The new token; empty, with the reason in the form, if there is none."""
    user = person(request)
    try:
        _row, secret = tokens.make_token(
            user,
            actor=user,
            name=form.cleaned_data["name"],
            scope=form.scope_wanted(),
            lifetime=form.lifetime_wanted(),
            project=form.cleaned_data["project"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, str(error.message))
        return ""
    return secret


@require_POST
def token_revoke(request: HttpRequest) -> HttpResponse:
    form = TokenRevokeForm(request.POST)
    if not form.is_valid():
        raise NotFoundError
    user = person(request)
    token = tokens.token_for(user, form.cleaned_data["token"])
    tokens.revoke_token(token, actor=user, request_ip=client_ip(request))
    messages.success(request, _("The token “%(name)s” opens nothing any more.") % {"name": token.name})
    return redirect("accounts:tokens")
