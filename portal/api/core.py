"""What every operation has in common, so that an operation itself is a few lines that call a selector or a service.

    @operation("POST", "machines/{uuid:pk}/start", tag="Machines", answers=JobOut, status=202,
               pages=("machines:start",), guards=MACHINE)
    def start_machine(request: HttpRequest, pk: UUID) -> Job:
        \"\"\"Switch it on.\"\"\"
        ...

`pages` are the pages' addresses that do the same: a test walks those and fails for one that nobody names. The rest is
done here: scopes of tokens, one transaction for each change, Idempotency-Key, If-Match, ETag, sparse fields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Final, TypeVar

from django.db import transaction
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.cache import get_conditional_response
from django.utils.translation import gettext as _
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from pydantic import BaseModel

from portal.api import idempotency, problems
from portal.api.auth import TokenAuth, token_in
from portal.api.errors import ChangedError, ScopeError
from portal.api.models import Answered
from portal.api.paging import Listed
from portal.api.schemas import JobOut
from portal.errors import InvalidError, PortalError
from portal.jobs.models import Job

F = TypeVar("F", bound=Callable[..., Any])

SAFE: Final = frozenset({"GET"})

api: Final = NinjaAPI(
    title="Casement",
    version="1",
    auth=TokenAuth(),
    urls_namespace="api",
    # The document is served by our own views, which add to it; see document.py.
    openapi_url=None,
    docs_url=None,
)
api.add_exception_handler(PortalError, problems.of_error)  # type: ignore[arg-type]  # a handler of this class and below
api.add_exception_handler(ValidationError, problems.of_validation)  # type: ignore[arg-type]  # as above
api.add_exception_handler(HttpError, problems.of_http_error)  # type: ignore[arg-type]  # as above


@dataclass(frozen=True, slots=True)
class Guard:
    """How the thing that an operation changes is read, to be compared with If-Match. It is locked by its `model`."""

    model: type[Model]
    show: Callable[[HttpRequest, Any], BaseModel]


@dataclass(frozen=True, slots=True)
class Operation:
    """One of them, as the document and the tests know it."""

    method: str
    path: str
    name: str
    tag: str
    answers: Any
    status: int
    pages: tuple[str, ...]
    personal: bool
    guards: Guard | None
    links: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        return self.method not in SAFE


OPERATIONS: Final[list[Operation]] = []


def operation(
    method: str,
    path: str,
    *,
    tag: str,
    answers: Any = None,
    status: int = 200,
    pages: tuple[str, ...] = (),
    personal: bool = False,
    guards: Guard | None = None,
    links: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[F], F]:
    """Register a function as an operation; its name is the operation's id, its docstring what people read.

    It gives a pydantic model, a Job (answered as such, with its address), None for nothing to say, or a response.
    `personal` ones are about the person, and not for tokens that are for one project. `links` says to the document
    which operations take something from the answer: `{"show_job": {"pk": "id"}}`.
    """

    def register(function: F) -> F:
        known = Operation(method, path, function.__name__, tag, answers, status, pages, personal, guards, links or {})
        OPERATIONS.append(known)
        text = " ".join((function.__doc__ or "").split())

        @wraps(function)
        def run(request: HttpRequest, **values: Any) -> HttpResponseBase:
            return _run(known, function, request, values)

        api.api_operation(
            [method],
            path,
            response={status: answers},
            operation_id=known.name,
            url_name=known.name,
            summary=text.partition(". ")[0].rstrip("."),
            description=text,
            tags=[tag],
        )(run)
        return function

    return register


def _run(
    known: Operation, function: Callable[..., Any], request: HttpRequest, values: dict[str, Any]
) -> HttpResponseBase:
    _check_scope(known, request)
    if not known.changes:
        return _answered(known, request, function(request, **values))
    with transaction.atomic():
        key = idempotency.key_of(request) if known.method == "POST" else None
        claimed = idempotency.claim(token_in(request), key, request) if key else None
        if isinstance(claimed, HttpResponse):
            return claimed
        _check_state(known, request, values)
        response = _answered(known, request, function(request, **values))
        if isinstance(claimed, Answered) and isinstance(response, HttpResponse):
            idempotency.keep(claimed, response)
        return response


def _check_scope(known: Operation, request: HttpRequest) -> None:
    token = token_in(request)
    if known.changes and not token.may_write:
        raise ScopeError(_("This token may only read."))
    if known.personal and known.changes and token.project_id is not None:
        raise ScopeError(_("This token is for one project, and may not change what is yours beyond it."))


def _check_state(known: Operation, request: HttpRequest, values: Mapping[str, Any]) -> None:
    """If-Match: nothing is done to a thing that is not as its sender believes. The row is locked until it is done."""
    wanted = request.headers.get("If-Match")
    if wanted is None or known.guards is None:
        return
    key = values["pk"]
    known.guards.model._default_manager.select_for_update().filter(pk=key).first()
    current = etag_of(known.guards.show(request, key))
    if wanted.strip() != "*" and current not in {tag.strip() for tag in wanted.split(",")}:
        raise ChangedError


def _answered(known: Operation, request: HttpRequest, result: Any) -> HttpResponseBase:
    if isinstance(result, HttpResponseBase):
        return result
    if result is None:
        return HttpResponse(status=known.status)
    if isinstance(result, Job):
        return accepted(result, known.status)
    return shown(request, result, known)


def accepted(job: Job, status: int = 202) -> HttpResponse:
    """The job that does it, and where to ask for it."""
    response = _json(JobOut.of(job).model_dump_json(), status)
    response["Location"] = address("show_job", job.pk)
    return response


def shown(request: HttpRequest, model: BaseModel, known: Operation) -> HttpResponse:
    """The model with its ETag, whole or as much of it as `?fields=` names; 304 if the asker has it already."""
    whole = model.model_dump_json()
    etag = _etag(whole)
    response = _json(_sparse(request, model, known.answers) or whole, known.status)
    response["ETag"] = etag
    if request.method != "GET":
        return response
    return get_conditional_response(request, etag=etag, response=response) or response


def _sparse(request: HttpRequest, model: BaseModel, answers: type[BaseModel]) -> str:
    """As much as `?fields=` names, or nothing if it is not there. A list's fields are those of its items."""
    wanted = request.GET.get("fields") if request.method == "GET" else None
    if not wanted:
        return ""
    names = {name.strip() for name in wanted.split(",")}
    if unknown := names - set(fields_of(answers)):
        raise InvalidError(_("There is no field “%(name)s”.") % {"name": min(unknown)[:50]}, field="fields")
    if issubclass(answers, Listed):
        return model.model_dump_json(include={"items": {"__all__": names}, "next": True})
    return model.model_dump_json(include=names)


def fields_of(answers: type[BaseModel]) -> list[str]:
    """What `?fields=` may name."""
    shown_type = answers.__pydantic_generic_metadata__["args"][0] if issubclass(answers, Listed) else answers
    return list(shown_type.model_fields)


def _json(text: str, status: int) -> HttpResponse:
    response = HttpResponse(text, status=status, content_type="application/json")
    response["Cache-Control"] = "private, no-cache"
    response["Vary"] = "Authorization"
    return response


def etag_of(model: BaseModel) -> str:
    """Of all of it, whichever fields are shown: what is not shown may be what changed."""
    return _etag(model.model_dump_json())


def _etag(text: str) -> str:
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def address(name: str, *args: object) -> str:
    """The path of an operation, by its name."""
    return reverse(f"api:{name}", args=args)
