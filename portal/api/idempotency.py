"""The same POST again: with the same Idempotency-Key it has its effect once, and its answer is given again.

The row of the key is written first, in the transaction of what the request does. Who comes with the same key meanwhile
waits for it (PostgreSQL at the key's uniqueness, SQLite at the one writer's lock) and then finds the answer. A request
that fails leaves no row: trying again is trying anew, so that a passing failure is never repeated for ever.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from typing import Final

from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import ApiToken
from portal.api.errors import KeyReusedError
from portal.api.models import Answered
from portal.errors import InvalidError
from portal.lib.secrets import seal, unseal

HEADER: Final = "Idempotency-Key"
KEPT: Final = dt.timedelta(hours=24)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


def key_of(request: HttpRequest) -> str | None:
    key = request.headers.get(HEADER)
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidError(_("An Idempotency-Key is up to 255 printable characters without spaces."), field=HEADER)
    return key


def claim(token: ApiToken, key: str, request: HttpRequest) -> Answered | HttpResponse:
    """The row to be filled by `keep`, or the answer that was given before. Within a transaction."""
    Answered.objects.filter(token=token, created_at__lt=timezone.now() - KEPT).delete()
    print_ = fingerprint(request)
    try:
        with transaction.atomic():
            return Answered.objects.create(token=token, key=key, fingerprint=print_)
    except IntegrityError:
        earlier = Answered.objects.get(token=token, key=key)
    if earlier.fingerprint != print_:
        raise KeyReusedError
    return _again(earlier)


def keep(row: Answered, response: HttpResponse) -> None:
    Answered.objects.filter(pk=row.pk).update(
        status=response.status_code,
        location=response.headers.get("Location", ""),
        body=seal(response.content.decode()),
    )


def _again(earlier: Answered) -> HttpResponse:
    response = HttpResponse(unseal(earlier.body), status=earlier.status, content_type="application/json")
    if earlier.location:
        response["Location"] = earlier.location
    response["Idempotency-Replayed"] = "true"
    return response


def fingerprint(request: HttpRequest) -> str:
    """Of an upload it takes the fields, and of each file its name and size: its bytes are on disk by now, and many."""
    digest = hashlib.sha256(f"{request.method} {request.get_full_path()}\n".encode())
    if request.content_type == "multipart/form-data":
        digest.update(repr(sorted(request.POST.lists())).encode())
        digest.update(repr(sorted((name, file.name, file.size) for name, file in request.FILES.items())).encode())  # type: ignore[union-attr]  # one file for each name
    else:
        digest.update(request.body)
    return digest.hexdigest()
