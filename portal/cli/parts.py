"""What several modules of commands use: the portal of a command, things by their names, and the end of a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from uuid import UUID

import click
from click.shell_completion import CompletionItem

from portal.cli import config
from portal.cli.client import Client, Json
from portal.cli.errors import NOT_FOUND, CliError
from portal.cli.jobs import wait_for
from portal.cli.output import Output


@dataclass
class Context:
    """What every command has. The client is made when it is first needed: `login` needs none."""

    portal_name: str | None
    output: Output
    _client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(config.load().chosen(self.portal_name))
        return self._client


pass_context = click.make_pass_decorator(Context)


def done(context: Context, job: Json, *, wait: bool) -> None:
    """Quiet output is the job's id, or, of one that was waited for, the id of what it is about."""
    if wait:
        job = wait_for(context.client, context.output, job)
    if context.output.form == "json":
        context.output.json(job)
    elif context.output.form == "quiet":
        context.output.line(job["target"]["id"] if wait else job["id"])
    else:
        word = "done" if wait else f"asked for (job {job['id']})"
        context.output.note(f"{job['target']['name']}: {job['title']}, {word}")


# --- things by their names ----------------------------------------------------------------------------------------


def machine_named(client: Client, wanted: str, project: str | None) -> Json:
    if is_id(wanted):
        return cast(Json, client.get(f"machines/{wanted}"))
    of = project_named(client, project)["id"] if project else None
    found = client.get("machines", name=wanted, project=of)["items"]
    return only(found, f"machine “{wanted}”", lambda one: one["project"]["name"])


def project_named(client: Client, wanted: str | None) -> Json:
    if wanted and is_id(wanted):
        return cast(Json, client.get(f"projects/{wanted}"))
    found = [one for one in client.every("projects", q=wanted, limit=200) if wanted in {None, one["name"]}]
    return only(found, f"project “{wanted}”" if wanted else "project", lambda one: one["name"])


def only(found: list[Json], what: str, tell_apart: Callable[[Json], str]) -> Json:
    if len(found) == 1:
        return found[0]
    if not found:
        raise CliError(f"There is no {what}, or it is not yours to see.", NOT_FOUND)
    raise CliError(f"There are several ({', '.join(sorted(map(tell_apart, found)))}): say which one.")


def is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return len(text) == 36


# --- for the shell ------------------------------------------------------------------------------------------------


def machine_names(ctx: click.Context, start: str) -> list[CompletionItem]:
    return names(ctx, "machines", start, tell="power_state")


def names(ctx: click.Context, what: str, start: str, *, tell: str) -> list[CompletionItem]:
    """Of a list of the API, each with its field `tell` beside it. Nothing that goes wrong may get between somebody and
    their command line."""
    try:
        client = Client(config.load().chosen((ctx.find_root().params or {}).get("portal")))
        rows = client.get(what, q=start, limit=50, fields=f"name,{tell}")["items"]
        client.close()
    except CliError:
        return []
    return [CompletionItem(row["name"], help=row[tell]) for row in rows if row["name"].startswith(start)]
