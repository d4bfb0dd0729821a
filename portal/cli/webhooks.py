"""Commands about webhooks: where a project's events are sent to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import click

from portal.cli.client import Client, Json
from portal.cli.parts import Context, is_id, only, pass_context, project_named

COLUMNS: Final = ("name", "url", "enabled", "waiting", "failing_since", "id")
SENT: Final = ("event.kind", "event.subject", "status", "attempts", "answer_status", "error", "id")

_hook: Callable[[Any], Any] = click.argument("webhook")
_project: Callable[[Any], Any] = click.option("--project", help="Of which project, if you have several.")


@click.group()
def webhook() -> None:
    """Webhooks: addresses that a project's events are sent to. For those who manage the project."""


@webhook.command("ls")
@_project
@pass_context
def list_webhooks(context: Context, project: str | None) -> None:
    """The webhooks of a project."""
    context.output.rows(_all(context.client, project), COLUMNS, key="name")


@webhook.command("show")
@_hook
@_project
@pass_context
def show(context: Context, webhook: str, project: str | None) -> None:
    """One webhook, by its name or id."""
    context.output.one(_named(context.client, webhook, project), key="id")


@webhook.command("add")
@click.argument("name")
@click.argument("url")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only these events, such as job.failed; repeat it."
)
@_project
@pass_context
def add(context: Context, name: str, url: str, *, kinds: tuple[str, ...], project: str | None) -> None:
    """Have a project's events sent to an https address. What signs them is told by: casement webhook secret."""
    of = project_named(context.client, project)
    body = {"name": name, "url": url, "kinds": list(kinds)}
    context.output.one(context.client.send("POST", f"projects/{of['id']}/webhooks", body), key="id")


@webhook.command("set")
@_hook
@click.option("--name")
@click.option("--url")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only these events from now on; repeat it.")
@click.option("--all-kinds", is_flag=True, help="All events, later ones too.")
@click.option("--on/--off", "enabled", default=None, help="Switch it on or off.")
@_project
@pass_context
def change(
    context: Context,
    webhook: str,
    *,
    name: str | None,
    url: str | None,
    kinds: tuple[str, ...],
    all_kinds: bool,
    enabled: bool | None,
    project: str | None,
) -> None:
    """Change a webhook, or switch it on or off."""
    found = _named(context.client, webhook, project)
    only_these = [] if all_kinds else list(kinds) or None
    values = {"name": name, "url": url, "kinds": only_these, "enabled": enabled}
    body = {field: value for field, value in values.items() if value is not None}
    if not body:
        raise click.UsageError("Say what to change: --name, --url, --kind, --all-kinds, --on or --off.")
    context.output.one(context.client.send("PATCH", f"webhooks/{found['id']}", body), key="id")


@webhook.command("rm")
@_hook
@_project
@click.confirmation_option(prompt="What waits to be sent to it is not sent any more. Delete?")
@pass_context
def remove(context: Context, webhook: str, project: str | None) -> None:
    """Delete a webhook."""
    found = _named(context.client, webhook, project)
    context.client.send("DELETE", f"webhooks/{found['id']}")
    context.output.note(f"{found['name']} is deleted.")


@webhook.command("secret")
@_hook
@click.option("--new", is_flag=True, help="Have a new one made; the one before signs as well for a day.")
@_project
@pass_context
def secret(context: Context, webhook: str, *, new: bool, project: str | None) -> None:
    """What its messages are signed with. That you looked is written down."""
    found = _named(context.client, webhook, project)
    told = context.client.send("POST", f"webhooks/{found['id']}/secret{'/new' if new else ''}")
    if context.output.form == "json":
        context.output.json(told)
    else:
        context.output.line(told["secret"])


@webhook.command("try")
@_hook
@_project
@pass_context
def try_(context: Context, webhook: str, project: str | None) -> None:
    """Send an event of no meaning to it. What came back: casement webhook log."""
    found = _named(context.client, webhook, project)
    sent = context.client.send("POST", f"webhooks/{found['id']}/test")
    context.output.rows([sent], SENT, key="id")


@webhook.command("log")
@_hook
@click.option("-n", "--last", type=click.IntRange(1, 200), default=20, show_default=True)
@_project
@pass_context
def log(context: Context, webhook: str, *, last: int, project: str | None) -> None:
    """What was sent to it or will be, the newest first, and what came back."""
    found = _named(context.client, webhook, project)
    context.output.rows(context.client.get(f"webhooks/{found['id']}/deliveries", limit=last)["items"], SENT, key="id")


@webhook.command("resend")
@click.argument("delivery")
@pass_context
def resend(context: Context, delivery: str) -> None:
    """Send something once more, by its id in the log."""
    context.output.rows([context.client.send("POST", f"deliveries/{delivery}/resend")], SENT, key="id")


def _all(client: Client, project: str | None) -> list[Json]:
    of = project_named(client, project)
    return cast("list[Json]", client.get(f"projects/{of['id']}/webhooks")["items"])


def _named(client: Client, wanted: str, project: str | None) -> Json:
    if is_id(wanted):
        return cast(Json, client.get(f"webhooks/{wanted}"))
    found = [one for one in _all(client, project) if one["name"] == wanted]
    return only(found, f"webhook “{wanted}”", lambda one: one["id"])
