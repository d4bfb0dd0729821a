"""Commands that tell what goes on, and those about webhooks and limits, against a real web process."""

from __future__ import annotations

import json
import queue
import subprocess
import threading

import pytest

from portal.accounts.models import ApiToken, Membership
from portal.events.kinds import Kind
from portal.events.models import Delivery, Webhook
from portal.events.services import record
from portal.jobs.models import Job
from portal.lib.secrets import unseal
from portal.machines import disks
from portal.machines.models import Attachment, Machine
from tests.integration.api.shell import LIMIT_S, Shell
from tests.portal.figures.test_views import told

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]


def happen(machine: Machine, number: int) -> None:
    record(Kind.MACHINE_CHANGED, machine, project=machine.project_id, data={"number": number})


def lines_of(process: subprocess.Popen[str]) -> queue.Queue[str]:
    """What it says, as it comes."""
    found: queue.Queue[str] = queue.Queue()
    output = process.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            found.put(line)

    threading.Thread(target=read, daemon=True).start()
    return found


def test_what_machines_use(shell: Shell, machine: Machine) -> None:
    told(machine)
    shell.sign_in()
    code, out, said = shell.run("top")
    assert (code, "beacon" in out and "50 %" in out and "1.0 MiB/s" in out) == (0, True), (out, said)
    assert shell.run("-q", "top", "beacon")[1] == "beacon\n"
    assert shell.data("top", "--project", "Lighthouse")[0]["cpu"] == pytest.approx(0.5, abs=0.01)
    assert shell.run("top", "nothing")[0] == 4
    Machine.objects.update(power_state="shut_off")
    assert shell.data("top") == []


def test_events_are_told_and_followed_through_a_line_that_breaks(shell: Shell, machine: Machine) -> None:
    for number in range(3):
        happen(machine, number)
    shell.sign_in()
    code, out, _said = shell.run("events", "-n", "2")
    assert (code, out.count("machine.changed"), '"number": 2' in out, '"number": 0' in out) == (0, 2, True, False)
    assert shell.run("-q", "events", "--kind", "job")[1] == ""
    process = shell.start("-o", "json", "events", "-f", "-n", "1", "--kind", "machine")
    lines = lines_of(process)
    assert json.loads(lines.get(timeout=LIMIT_S))["detail"] == {"number": 2}
    for number in (3, 4):
        happen(machine, number)
        assert json.loads(lines.get(timeout=LIMIT_S))["detail"] == {"number": number}
    ApiToken.objects.all().delete()
    assert process.wait(LIMIT_S) == 3 or process.returncode == 4, "who may not see it is told so"


def test_webhooks_are_added_changed_tried_and_removed(shell: Shell, machine: Machine) -> None:
    shell.sign_in()
    made = shell.data("webhook", "add", "CI", "https://ci.example.org/hook", "--kind", "job.failed")
    webhook = Webhook.objects.get()
    assert (made["id"], webhook.kinds) == (str(webhook.pk), ["job.failed"])
    assert shell.run("-q", "webhook", "ls")[1] == "CI\n"
    secret = unseal(webhook.secret)
    assert shell.run("webhook", "secret", "CI")[1] == f"{secret}\n"
    new = shell.run("webhook", "secret", "CI", "--new")[1].strip()
    webhook.refresh_from_db()
    assert (unseal(webhook.secret), unseal(webhook.old_secret)) == (new, secret)
    assert shell.run("webhook", "set", "CI")[0] == 2
    changed = shell.data("webhook", "set", "CI", "--name", "Chat", "--all-kinds", "--off")
    assert (changed["name"], changed["kinds"], changed["enabled"]) == ("Chat", [], False)
    assert shell.run("webhook", "try", "Chat")[0] == 5
    shell.data("webhook", "set", str(webhook.pk), "--on")
    assert shell.run("webhook", "try", "Chat")[0] == 0
    assert "pending" in shell.run("webhook", "log", "Chat")[1]
    assert shell.data("webhook", "log", "Chat")[0]["event"]["kind"] == "webhook.test"
    Delivery.objects.update(status="done")
    assert shell.data("webhook", "resend", str(Delivery.objects.get().pk))[0]["status"] == "pending"
    assert shell.run("webhook", "rm", "Chat", typed="n\n")[0] == 1
    assert shell.run("webhook", "rm", "Chat", "--yes")[0] == 0
    assert not Webhook.objects.exists()
    code, _out, said = shell.run("webhook", "add", "CI", "http://ci.example.org/")
    assert (code, "https://" in said) == (1, True), said
    Membership.objects.update(role="member")
    assert shell.run("webhook", "ls")[0] == 1


def test_disks_are_limited_and_hibernated_machines_woken(shell: Shell, machine: Machine) -> None:
    shell.sign_in()
    assert shell.data("limit", "beacon", "root", "--iops", "100", "--mib-per-s", "5")["kind"] == "disk.limits"
    row = Attachment.objects.get()
    assert (row.iops, row.bytes_per_s) == (100, 5 << 20)
    disks.record_limited(machine)
    assert shell.data("limit", "beacon", "root")["kind"] == "disk.limits"
    row.refresh_from_db()
    assert (row.iops, row.bytes_per_s) == (0, 0)
    disks.record_limited(machine)
    assert shell.run("limit", "beacon", "nothing", "--iops", "1")[0] == 4
    Job.objects.all().delete()
    Machine.objects.update(power_state="shut_off", saved_gib=1)
    assert shell.data("wake", "beacon")["kind"] == "machine.start"


def test_every_command_says_what_it_does_and_is_completed(shell: Shell) -> None:
    code, out, _said = shell.run("--help")
    assert code == 0
    for name in ("console", "events", "limit", "top", "wake", "webhook"):
        assert f"  {name} " in out, name
        code, help_, _said = shell.run(name, "--help")
        assert (code, "Usage: casement" in help_) == (0, True), name
    words = {"COMP_WORDS": "casement webh", "COMP_CWORD": "1", "_CASEMENT_COMPLETE": "bash_complete"}
    assert "webhook" in shell.run(**words)[1]
