"""A wider content policy for the pages of Django's admin alone, and for operators alone.

Unfold, the admin's theme, is built on Alpine.js, which runs the expressions in its attributes with `new Function`: a
browser wants 'unsafe-eval' for that. It also writes its colours into a <style> and positions menus by style attributes:
'unsafe-inline' for styles. Without the two the admin shows no menu, no filter and no dialog. Scripts in the page stay
forbidden as everywhere, and so does everything from other places.
"""

from collections.abc import Callable

from csp.constants import UNSAFE_EVAL, UNSAFE_INLINE
from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponse

_widen = csp_update({"script-src": [UNSAFE_EVAL], "style-src": [UNSAFE_INLINE]})


class AdminPolicyMiddleware:
    """Stands behind CSPMiddleware, which writes the header on the way out."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        match = request.resolver_match
        # A page that says that the database is away must not be asked whom it is for.
        if response.status_code < 500 and match is not None and match.app_name == "admin" and request.user.is_staff:
            _widen(lambda _request: response)(request)
        return response
