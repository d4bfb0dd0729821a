"""Commands about the desktops that are handed out to you: which there are, get one, sign out."""

from __future__ import annotations

import time
from typing import Final, cast

import click
from click.shell_completion import CompletionItem

from portal.cli.client import Client, Json
from portal.cli.parts import Context, is_id, names, only, pass_context

COLUMNS: Final = ("name", "title", "kind", "open", "sessions", "waiting", "id")
SESSIONS: Final = ("pool.name", "desktop", "state", "started_at", "ends_at", "machine.name", "id")
# The portal drops a place that nobody asks for; see portal/pools/querysets.py.
ASK_EVERY_S: Final = 4.0


def desktop_names(ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    return names(ctx, "desktops", start, tell="title")


@click.group()
def desktop() -> None:
    """Desktops that are handed out. Its screen: casement vnc, with the machine that it names."""


@desktop.command("ls")
@pass_context
def list_desktops(context: Context) -> None:
    """The desktops that you may use."""
    context.output.rows(context.client.get("desktops")["items"], COLUMNS, key="name")


@desktop.command("open")
@click.argument("name", shell_complete=desktop_names)
@click.option("--another", is_flag=True, help="One more than you have, where you may have several.")
@click.option("--no-wait", is_flag=True, help="Leave the line at once when none is free.")
@pass_context
def open_desktop(context: Context, name: str, *, another: bool, no_wait: bool) -> None:
    """Get a desktop, or wait in line for one; Ctrl-C leaves the line."""
    pool = desktop_named(context.client, name)
    path = f"desktops/{pool['id']}"
    answer = context.client.send("POST", f"{path}/ask", {"another": another})
    try:
        while answer["session"] is None and not no_wait:
            context.output.note(_waits(answer["place"]))
            time.sleep(ASK_EVERY_S)
            answer = context.client.send("POST", f"{path}/ask", {"another": another})
    except KeyboardInterrupt:
        context.client.send("DELETE", f"{path}/place")
        raise
    if answer["session"] is None:
        context.client.send("DELETE", f"{path}/place")
        context.output.note("All desktops are in use.")
        raise click.exceptions.Exit(5)
    context.output.one(answer["session"], key="id")


def _waits(place: Json) -> str:
    estimate = place["estimate_s"]
    soon = f", about {max(round(estimate / 60), 1)} min" if estimate is not None else ""
    return f"Number {place['position']} in line{soon}."


@desktop.command("sessions")
@pass_context
def list_sessions(context: Context) -> None:
    """Your running sessions, the newest first."""
    context.output.rows(context.client.get("desktop-sessions")["items"], SESSIONS, key="id")


@desktop.command("stay")
@click.argument("session")
@pass_context
def stay(context: Context, session: str) -> None:
    """Say that you are there, before an idle session is closed. SESSION is its id, or its desktop's name."""
    found = session_named(context.client, session)
    context.output.one(context.client.send("POST", f"desktop-sessions/{found['id']}/stay"), key="id")


@desktop.command("sign-out")
@click.argument("session")
@click.confirmation_option(prompt="What is not saved is lost. Sign out?")
@pass_context
def sign_out(context: Context, session: str) -> None:
    """End a session. SESSION is its id, or its desktop's name."""
    found = session_named(context.client, session)
    context.output.one(context.client.send("DELETE", f"desktop-sessions/{found['id']}"), key="id")


# --- by their names -------------------------------------------------------------------------------------------------


def desktop_named(client: Client, wanted: str) -> Json:
    found = [one for one in client.get("desktops")["items"] if wanted in {one["id"], one["name"], one["title"]}]
    return only(found, f"desktop “{wanted}”", lambda one: one["name"])


def session_named(client: Client, wanted: str) -> Json:
    if is_id(wanted):
        return cast(Json, client.get(f"desktop-sessions/{wanted}"))
    mine = client.get("desktop-sessions")["items"]
    found = [one for one in mine if wanted in {one["desktop"], one["pool"]["name"]}]
    return only(found, f"session on “{wanted}”", lambda one: one["id"])


COMMANDS: Final = (desktop,)
