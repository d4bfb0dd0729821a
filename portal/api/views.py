"""The document, for programs and for people, and what answers where there is no operation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import cache_control
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from portal.api.core import OPERATIONS, Operation
from portal.api.document import document, tags
from portal.api.problems import of_error
from portal.errors import NotFoundError


@login_not_required
@require_safe
@cache_control(max_age=600)
def openapi(_request: HttpRequest) -> JsonResponse:
    """Nothing in it is anybody's: it is the same for every portal of this version."""
    return JsonResponse(document())


@login_not_required
@csrf_exempt
def nowhere(request: HttpRequest, rest: str = "") -> HttpResponse:
    return of_error(request, NotFoundError())


@dataclass(frozen=True, slots=True)
class Line:
    """A parameter, or a property of a body or an answer, as the page shows it."""

    name: str
    kind: str
    text: str
    required: bool


@dataclass(frozen=True, slots=True)
class Entry:
    operation: Operation
    path: str
    summary: str
    text: str
    parameters: list[Line]
    body: list[Line]
    answer: list[Line]
    is_list: bool


@require_safe
def browse(request: HttpRequest) -> HttpResponse:
    """The same document as a page of the portal: no script of anybody else's runs here."""
    whole = document()
    groups = {tag: [_entry(whole, known) for known in OPERATIONS if known.tag == tag] for tag in tags()}
    context = {"groups": groups, "server": whole["servers"][0]["url"], "count": len(OPERATIONS)}
    return render(request, "api/browse.html", context)


def _entry(whole: dict[str, Any], known: Operation) -> Entry:
    path, entry = next(
        (path, methods[known.method.lower()])
        for path, methods in whole["paths"].items()
        if methods.get(known.method.lower(), {}).get("operationId") == known.name
    )
    answer, is_list = _unlisted(whole, _schema_of(entry["responses"][str(known.status)]))
    return Entry(
        known,
        path,
        _plain(entry["summary"]),
        _plain(entry["description"].removeprefix(entry["summary"]).lstrip(". ")),
        [
            Line(one["name"], _kind(one["schema"]), one.get("description", ""), one.get("required", False))
            for one in entry["parameters"]
        ],
        _lines(whole, _schema_of(entry.get("requestBody", {}))),
        [replace(line, required=False) for line in _lines(whole, answer)],
        is_list,
    )


def _plain(text: str) -> str:
    """The document is written in Markdown, of which only the marks around names are used."""
    return text.replace("`", "")


def _schema_of(part: dict[str, Any]) -> dict[str, Any]:
    contents = list(part.get("content", {}).values())
    found: dict[str, Any] = contents[0]["schema"] if contents else {}
    return found


def _unlisted(whole: dict[str, Any], schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Of a page of a list, what its items are."""
    items = _resolved(whole, schema).get("properties", {}).get("items")
    return (items["items"], True) if items and "items" in items else (schema, False)


def _lines(whole: dict[str, Any], schema: dict[str, Any]) -> list[Line]:
    found = _resolved(whole, schema)
    required = set(found.get("required", ()))
    return [
        Line(name, _kind(value), _plain(value.get("description", "")), name in required)
        for name, value in found.get("properties", {}).items()
    ]


def _resolved(whole: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = whole["components"]["schemas"][name] if name else schema
    return found


def _kind(schema: dict[str, Any]) -> str:
    """A type in a few words: `string (uuid)`, `list of StepOut`, `string or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(str(one) or '""' for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    extra = schema.get("format")
    return f"{schema.get('type', 'anything')} ({extra})" if extra else str(schema.get("type", "anything"))
