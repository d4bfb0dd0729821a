"""The OpenAPI document: what the framework writes from the operations, and what is the same for all of them."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any, Final

from django.conf import settings

from portal.api.core import OPERATIONS, Operation, api, fields_of
from portal.api.paging import Listed
from portal.api.problems import CONTENT_TYPE

Json = dict[str, Any]

# Read by people and by what makes clients; English, like every name in it.
_INTRODUCTION: Final = """Everything that a page offers, for programs. Send `Authorization: Bearer casement_…`; such
tokens are made on your page *API tokens*.

* **Changes** take an `Idempotency-Key` (POST): the same request again has its effect once and gets the same answer, for
  24 hours. With `If-Match` they are refused by 412 when the thing is not as you read it; its ETag came with it.
* **Long work** answers 202 with a job. Ask for it again, or follow `/jobs/{pk}/events`, until `finished_at` is set.
* **Lists** come in pages: pass `next` on as `cursor`. `fields=id,name` leaves the rest out.
* **Errors** are problem documents (RFC 9457) with a `code` that never changes; `detail` is for people.
* **429** says in `Retry-After` when to come back."""

_PROBLEMS: Final = {
    400: "It cannot be read at all.",
    401: "No token, or none that is alive.",
    403: "Seen, but not allowed: by your role, or by the token.",
    404: "There is no such thing, or it is not yours to see.",
    405: "The address takes other methods.",
    409: "The thing is in another state than this needs, or there is no room.",
    412: "It has changed since you read it.",
    413: "It is larger than is allowed.",
    422: "A value cannot be used; `errors` says which.",
    429: "Too many requests; `Retry-After` says when to come back.",
    503: "The portal's database is away; `Retry-After` says when to come back.",
}
_FIRST: Final = (
    *(
        "Machines",
        "Volumes",
        "Bin",
        "Jobs",
        "Images",
        "ISOs",
        "Uploads",
        "Projects",
        "Screens",
        "Figures",
        "Events",
        "Webhooks",
    ),
    *("You", "Hosts", "Sessions", "Audit"),
)
FOLLOWING: Final = ("follow_job", "follow_project_events")
_ALWAYS: Final = (401, 403, 404, 405, 422, 429, 503)
_ON_CHANGES: Final = (400, 409, 412)
_MAY_BE_LARGE: Final = ("create_upload", "add_to_upload")


@cache
def document() -> Json:
    """Made once: it changes with a release only."""
    found: Json = deepcopy(dict(api.get_openapi_schema(path_prefix="")))
    found["info"]["description"] = _INTRODUCTION
    found["servers"] = [{"url": f"{settings.CASEMENT_URL}/api/v1"}]
    components = found["components"]
    components["schemas"]["Problem"] = _problem_schema()
    components["responses"] = {f"Problem{status}": _problem(text) for status, text in _PROBLEMS.items()}
    components["securitySchemes"]["TokenAuth"] |= {"description": "A token of yours, `casement_…`."}
    for known in OPERATIONS:
        _complete(found["paths"][_path(known)][known.method.lower()], known)
    found["tags"] = [{"name": tag} for tag in tags()]
    return found


def tags() -> list[str]:
    """What people look for most comes first."""
    used = dict.fromkeys(known.tag for known in OPERATIONS)
    return [*(tag for tag in _FIRST if tag in used), *(tag for tag in used if tag not in _FIRST)]


def _path(known: Operation) -> str:
    """As the document spells it: {uuid:pk} is {pk}."""
    parts = (part.replace("{uuid:", "{").replace("{int:", "{") for part in known.path.split("/"))
    return "/" + "/".join(parts)


def _complete(entry: Json, known: Operation) -> None:
    responses: Json = {str(status): value for status, value in entry["responses"].items()}
    if known.name == "add_to_upload":
        piece = {"schema": {"type": "string", "format": "binary"}}
        entry["requestBody"] = {"required": False, "content": {"application/octet-stream": piece}}
    for status in _ALWAYS + (_ON_CHANGES if known.changes else ()) + ((413,) if known.name in _MAY_BE_LARGE else ()):
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    entry["responses"] = responses
    entry["parameters"] = [*entry.get("parameters", []), *_parameters(known)]
    success = responses[str(known.status)]
    _name_success(success, responses, known)
    if known.links:
        success["links"] = {name: _link(name, values) for name, values in known.links.items()}


def _name_success(success: Json, responses: Json, known: Operation) -> None:
    """What of an answer the framework does not know: headers, and answers that are no JSON."""
    if known.name in FOLLOWING:
        success["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    elif known.name == "show_thumbnail":
        success["content"] = {"image/webp": {"schema": {"type": "string", "format": "binary"}}}
        responses |= {
            "202": {"description": "The first picture is being taken."},
            "204": {"description": "There is none."},
        }
    elif known.name == "download_console_log":
        success["content"] = {"text/plain": {"schema": {"type": "string"}}}
        responses["202"] = {"description": "It is on its way from the host."}
    elif not known.changes:
        responses["304"] = {"description": "You have it already (If-None-Match)."}
    headers: Json = {}
    if known.status == 202:
        headers["Location"] = {"description": "The job's address.", "schema": {"type": "string"}}
    if known.answers is not None and known.status != 202:
        headers["ETag"] = {"description": "For If-Match and If-None-Match.", "schema": {"type": "string"}}
    if headers:
        success["headers"] = headers


def _parameters(known: Operation) -> list[Json]:
    found = []
    if known.method == "POST":
        found.append(
            _header("Idempotency-Key", "Up to 255 printable characters of your own.", r"^[!-~]{1,255}$", most=255)
        )
    if known.guards is not None:
        found.append(_header("If-Match", "The ETag of the thing as you read it.", r"^\"[0-9a-f]{32}\"$", most=34))
    if not known.changes and known.answers is not None:
        names = fields_of(known.answers)
        of_what = "each item" if issubclass(known.answers, Listed) else "the answer"
        found.append(
            {
                "in": "query",
                "name": "fields",
                "description": f"Only these of {of_what}, separated by commas.",
                "required": False,
                "style": "form",
                "explode": False,
                "schema": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": names}},
            }
        )
    return found


def _header(name: str, description: str, pattern: str, *, most: int) -> Json:
    schema = {"type": "string", "pattern": pattern, "minLength": 1, "maxLength": most}
    return {"in": "header", "name": name, "description": description, "required": False, "schema": schema}


def _link(name: str, values: Any) -> Json:
    """Expressions of the document, from how an operation spells it: a place in the answer's body."""
    return {
        "operationId": name,
        "parameters": {
            parameter: place if place.startswith("$") else f"$response.body#/{place}"
            for parameter, place in values.items()
        },
    }


def _problem(text: str) -> Json:
    return {"description": text, "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def _problem_schema() -> Json:
    fault = {
        "type": "object",
        "required": ["field", "message"],
        "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
    }
    return {
        "type": "object",
        "title": "Problem",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string", "description": "Stable; for programs."},
            "detail": {"type": "string", "description": "For people."},
            "errors": {"type": "array", "items": fault},
        },
    }
