"""The `casement` command as people run it: a process of its own, against a real web process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from django.conf import settings

from portal.accounts.models import ApiToken, Project, User
from portal.console import serial_log
from portal.console.models import ConsoleSession
from portal.copies import cloning
from portal.copies.models import DiskCopy
from portal.images.models import Image, ImageVersion
from portal.isos.models import Iso
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobStatus, StepStatus
from portal.lib.secrets import seal
from portal.machines import binning, cards, discs, disks, rescue
from portal.machines.models import Attachment, Disc, Flavour, Machine, MachineLabel
from portal.parents import services as parents
from portal.parents import tending
from portal.parents.models import Parent
from portal.snapshots import restoring
from portal.snapshots import services as snapshots
from portal.uploads.models import Upload
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from tests.integration.api.shell import LIMIT_S, Shell
from tests.portal.console.screens import HEIGHT, SECRET, WIDTH, Screen, shown
from tests.support.product import free_port, wait_for
from tests.support.together import at_once
from tests.support.web import Web

# A command takes a second to start, on a busy machine several, and a story has up to thirty.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]


def test_signing_in_keeps_the_token_where_nobody_else_reads_it(shell: Shell) -> None:
    code, _out, said = shell.run("ls")
    assert (code, "casement login" in said) == (3, True)
    code, _out, said = shell.run("login", shell.url, typed="casement_wrong\n")
    assert code == 3 and "token" in said.lower()
    shell.sign_in()
    file = shell.home / ".config" / "casement" / "config.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert shell.secret in file.read_text()
    assert shell.run("-q", "portals")[1] == "work\n"
    assert shell.run("logout")[0] == 0
    assert shell.secret not in file.read_text()
    code, out, _said = shell.run(
        "ls", "projects", "-s", "Light", CASEMENT_PORTAL=shell.url, CASEMENT_TOKEN=shell.secret
    )
    assert (code, "Lighthouse" in out) == (0, True)


def test_a_machine_is_told_what_to_do(shell: Shell, machine: Machine, bob: User) -> None:
    shell.sign_in()
    code, out, _said = shell.run("ls")
    assert code == 0 and "beacon" in out and "running" in out and "Lighthouse" in out
    assert shell.run("-q", "ls", "--status", "off")[1] == ""
    assert shell.data("show", "beacon")["id"] == str(machine.pk)
    assert shell.data("show", str(machine.pk))["name"] == "beacon"
    code, _out, said = shell.run("start", "beacon")
    assert (code, "already" in said) == (5, True), said
    job = shell.data("stop", "beacon")
    assert Job.objects.get().pk.hex == job["id"].replace("-", "")
    assert shell.run("show", "nothing")[0] == 4
    assert shell.run("stop")[0] == 2
    assert "Shut down" in shell.run("logs", "beacon")[1]
    assert shell.run("rm", "beacon", typed="n\n")[0] == 1
    machine.refresh_from_db()
    assert machine.task == "stopping"


def test_a_machine_rests_grows_and_comes_back_from_the_bin(shell: Shell, machine: Machine, flavour: Flavour) -> None:
    Flavour.objects.create(name="wide", title="Wide", vcpus=2, memory_mib=2048, disk_gib=10)
    Project.objects.update(bin_days=7, used_machines=1, used_vcpus=1, used_memory_mib=1024, used_disk_gib=10)
    MachineLabel.objects.create(machine=machine, name="web")
    shell.sign_in()
    assert shell.run("-q", "ls", "-l", "web")[1] == "beacon\n"
    assert shell.run("-q", "ls", "-l", "db")[1] == ""
    code, out, _said = shell.run("resize", "beacon")
    assert (code, "wide" in out and "next-start" in out) == (0, True), out
    for command, kind, task in (
        (("pause", "beacon"), "machine.pause", "pausing"),
        (("hibernate", "beacon"), "machine.hibernate", "hibernating"),
        (("resize", "beacon", "wide"), "machine.resize", "resizing"),
        (("rm", "beacon", "--yes"), "machine.bin", "binning"),
    ):
        assert shell.data(*command)["kind"] == kind
        machine.refresh_from_db()
        assert machine.task == task
        Job.objects.all().delete()
        if kind != "machine.bin":
            Machine.objects.update(task="", saved_gib=0)
    binning.record_binned(machine)
    assert shell.run("show", "beacon")[0] == 4
    assert shell.run("-q", "ls", "bin")[1] == "beacon\n"
    code, _out, said = shell.run("undelete", "beacon")
    assert (code, "is back" in said) == (0, True), said
    assert shell.run("undelete", "beacon")[0] == 4
    assert shell.data("rm", "--purge", "--yes", "beacon")["kind"] == "machine.delete"


def test_snapshots_are_taken_restored_and_deleted(shell: Shell, machine: Machine) -> None:
    """What workers would do is recorded by hand."""
    shell.sign_in()
    made = shell.data("snapshot", "take", "beacon", "before", "--description", "the upgrade")
    assert (made["kind"], made["target"]["id"]) == ("snapshot.take", str(machine.pk))
    snapshots.record_taken(machine)
    Job.objects.all().delete()
    assert shell.run("snapshot", "take", "beacon", "before")[0] == 5
    assert shell.data("snapshot", "take", "beacon", "--memory")["kind"] == "snapshot.take"
    snapshots.record_taken(machine)
    Job.objects.all().delete()
    assert shell.run("-q", "snapshot", "ls", "beacon")[1] == "snapshot-1\nbefore\n"
    rows = {row["name"]: row for row in shell.data("snapshot", "ls", "beacon")}
    assert (rows["snapshot-1"]["with_memory"], rows["snapshot-1"]["parent"]) == (True, rows["before"]["id"])
    assert shell.run("restore", "beacon", "nothing", "--yes")[0] == 4
    assert shell.data("restore", "beacon", "before", "--take-first", "--yes")["kind"] == "snapshot.restore"
    restoring.record_restored(machine)
    Job.objects.all().delete()
    assert shell.data("snapshot", "rm", "beacon", rows["before"]["id"], "--yes")["kind"] == "snapshot.delete"
    snapshots.record_deleted(machine)
    assert "before" not in shell.run("-q", "snapshot", "ls", "beacon")[1].splitlines()


def test_volumes_and_cards_come_and_go(shell: Shell, machine: Machine) -> None:
    shell.sign_in()
    made = shell.data("volume", "create", "data", "--size", "2")
    assert (made["kind"], shell.data("volume", "show", "data")["id"]) == ("volume.create", made["target"]["id"])
    volumes.record_created(Volume.objects.get())
    assert shell.run("-q", "ls", "volumes", "--status", "available")[1] == "data\n"
    assert shell.data("volume", "grow", "data", "3")["kind"] == "volume.grow"
    volumes.record_grown(Volume.objects.get())
    assert shell.run("attach", "beacon")[0] == 2
    assert shell.run("attach", "beacon", "nothing")[0] == 4
    assert shell.data("attach", "beacon", "data", "--delete-with-machine")["kind"] == "disk.attach"
    disks.record_attached(machine)
    code, out, _said = shell.run("ls", "volumes")
    assert code == 0 and "beacon" in out and "in_use" in out
    assert shell.data("volume", "grow", "data", "4")["kind"] == "disk.grow"
    disks.record_grown(machine)
    assert shell.run("volume", "rm", "data", "--yes")[0] == 5
    assert shell.data("card", "add", "beacon")["kind"] == "card.add"
    cards.record_added(machine)
    shown = shell.data("show", "beacon")
    assert [(one["name"], one["size_gib"]) for one in shown["disks"]] == [("Root disk", 10), ("data", 4)]
    first, second = [one["mac"] for one in shown["cards"]]
    code, out, _said = shell.run("show", "beacon")
    assert code == 0 and f"{first}, {second}" in out and "Root disk, data" in out
    assert shell.run("card", "rm", "beacon", first)[0] == 1
    assert shell.data("card", "rm", "beacon", second.upper())["kind"] == "card.remove"
    cards.record_removed(machine)
    assert shell.data("detach", "beacon", "data")["kind"] == "disk.detach"
    disks.record_detached(machine)
    assert shell.data("attach", "beacon", "--new", "1", "scratch")["kind"] == "disk.attach"
    assert shell.data("volume", "rm", "data", "--yes")["kind"] == "volume.delete"
    assert shell.data("rm", "beacon", "--yes", "--keep-volumes")["kind"] == "machine.delete"
    assert not Attachment.objects.filter(volume__isnull=False, delete_with_machine=True).exists()


def test_the_console_log_is_shown_and_searched(shell: Shell, machine: Machine, web: Web) -> None:
    serial_log.keep(machine.pk, b"boot\r\n\x1b]0;owned\x07hello\n")
    shell.sign_in()
    code, out, said = shell.run("logs", "-c", "beacon")
    assert (code, out) == (0, "boot\n\u241b]0;owned\u2407hello\n"), said
    assert shell.run("logs", "beacon", "-s", "BOO")[1] == "boot\n"


def test_two_of_one_name_are_told_apart(shell: Shell, machine: Machine, alice: User, charlie: User) -> None:
    other = charlie.memberships.get().project
    other.memberships.create(user=alice, role="member")
    machine.pk = machine.request_key = None  # type: ignore[assignment]  # another row of the same
    Machine.objects.create(
        project=other,
        name="beacon",
        kind="server",
        vcpus=1,
        memory_mib=512,
        disk_gib=1,
        host=machine.host,
        mac="52:54:00:00:00:09",
        login_user="x",
    )
    shell.sign_in()
    code, _out, said = shell.run("show", "beacon")
    assert (code, "Elsewhere" in said and "Lighthouse" in said) == (1, True), said
    assert shell.data("show", "beacon", "--project", "Elsewhere")["project"]["name"] == "Elsewhere"


def test_what_others_typed_cannot_drive_the_terminal(shell: Shell, machine: Machine, project: Project) -> None:
    Machine.objects.filter(pk=machine.pk).update(error_message="\x1b]0;owned\x07\x1b[2Jbad [bold]words[/bold]")
    Project.objects.filter(pk=project.pk).update(name="[red]x[/red]\x1b[31m")
    shell.sign_in()
    for command in (("ls",), ("show", "beacon"), ("ls", "projects"), ("-q", "ls", "projects")):
        code, out, said = shell.run(*command)
        assert code == 0 and "\x1b" not in out + said and "\x07" not in out, command
    assert "[bold]words[/bold]" in shell.run("show", "beacon")[1].replace("\n", "")


def test_launch_waits_with_the_jobs_own_end(
    shell: Shell, machine: Machine, image_version: ImageVersion, flavour: Flavour
) -> None:
    shell.sign_in()
    code, out, said = _launched(shell, "lamp", JobStatus.DONE)
    assert (code, json.loads(out)["status"]) == (0, "done"), said
    code, _out, said = _launched(shell, "torch", JobStatus.FAILED)
    assert (code, "The host has no room." in said) == (1, True), said
    code, _out, said = shell.run(*LAUNCH, "lamp")
    assert (code, "There is a machine named lamp" in said) == (5, True), said
    assert shell.run("launch", "--image", "nothing", "--flavour", "small")[0] == 4


LAUNCH = ("launch", "--image", "debian-12-server", "--flavour", "small", "--wait")


def _launched(shell: Shell, name: str, status: JobStatus) -> tuple[int, str, str]:
    """What the command says while a worker does the job."""
    process = shell.start("-o", "json", *LAUNCH, name)
    wait_for("it is asked for", Job.objects.filter(target_name=name).exists, seconds=LIMIT_S, every=0.1)
    at_once([partial(_worked, name, status)])
    out, said = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, said


def _worked(name: str, status: JobStatus) -> None:
    job = jobs.take_lease(Job.objects.get(target_name=name).pk, owner="w")
    assert job is not None
    for step in job.steps.all():
        jobs.end_step(jobs.start_step(job, step.name), StepStatus.DONE)  # type: ignore[arg-type]  # a column's text
    if status == JobStatus.FAILED:
        jobs.decide(job, status, code="storage-full", message="The host has no room.")
    jobs.finish(job, status)


def test_anything_else_goes_by_api_and_files_by_cp(shell: Shell, machine: Machine, tmp_path: Path) -> None:
    shell.sign_in()
    assert json.loads(shell.run("api", "me")[1])["username"] == "alice"
    assert json.loads(shell.run("api", "/api/v1/machines?limit=1&fields=name")[1])["items"] == [{"name": "beacon"}]
    made = json.loads(
        shell.run("api", f"machines/{machine.pk}/screen/links", "-f", "mode=view", "-f", "lifetime_s=60")[1]
    )
    assert made["mode"] == "view"
    assert shell.run("api", "-X", "DELETE", f"machines/{machine.pk}/screen/links/{made['id']}")[0] == 0
    code, _out, said = shell.run("api", "https://evil.example/")
    assert code == 1 and "path" in said
    disk = tmp_path / "mine.qcow2"
    disk.write_bytes(b"QFI\xfb" + b"\0" * 5000)
    assert shell.run("cp", str(disk), "--title", "Mine")[0] == 0
    assert Image.objects.get(title="Mine").versions.get().upload_path.name.endswith(".upload")


DISC = bytes(16 * 2048) + b"\1CD001\1" + bytes(9 * 1024 * 1024)


def test_an_iso_is_sent_in_pieces_and_gone_on_with_and_used(
    shell: Shell, machine: Machine, flavour: Flavour, project: Project, tmp_path: Path
) -> None:
    shell.sign_in()
    file = tmp_path / "debian-12.iso"
    file.write_bytes(DISC)
    # Another command had sent the first part, and was ended there.
    upload = Upload.objects.create(user=project.memberships.get().user, name=file.name, size_bytes=len(DISC))
    begun = settings.CASEMENT_HOME / "uploads" / upload.path.name  # The web process's own folder.
    begun.write_bytes(DISC[:5000])
    assert shell.run("iso", "upload", str(file))[0] == 0
    iso = Iso.objects.get()
    assert (iso.pk, begun.read_bytes() == DISC) == (upload.pk, True)
    assert iso.expected_sha256 == hashlib.sha256(DISC).hexdigest()
    Iso.objects.update(status="ready")
    assert shell.data("iso", "ls")[0]["name"] == "debian-12"
    assert shell.data("iso", "show", "debian-12")["id"] == str(iso.pk)
    made = shell.data("launch", "fresh", "--iso", "debian-12", "--flavour", "small", "--disk", "7", "--tpm")
    assert (made["kind"], Machine.objects.get(name="fresh").disk_gib) == ("machine.install", 7)
    assert shell.run("launch", "other", "--iso", "debian-12", "--image", "x", "--flavour", "small")[0] == 2
    assert shell.data("disc", "insert", "beacon", "debian-12")["kind"] == "disc.insert"
    discs.record_inserted(machine)
    Job.objects.all().delete()
    assert shell.data("disc", "ls", "beacon")[0]["iso"]["name"] == "debian-12"
    assert shell.data("disc", "eject", "beacon", "--force")["kind"] == "disc.eject"
    discs.record_ejected(machine)
    Job.objects.all().delete()
    assert shell.data("rescue", "beacon")[0]["title"] == "debian-12"
    assert shell.data("rescue", "beacon", "--iso", "debian-12")["kind"] == "machine.rescue"
    rescue.record_rescued(machine)
    Job.objects.all().delete()
    assert shell.data("rescue", "beacon", "--end")["kind"] == "machine.unrescue"
    Disc.objects.all().delete()
    Machine.objects.update(rescue_iso=None)
    assert shell.data("iso", "rm", "debian-12", "--yes")["kind"] == "iso.delete"


def test_running_copies_are_kept_listed_tried_again_and_let_go(
    shell: Shell, machine: Machine, image_version: ImageVersion, flavour: Flavour, alice: User
) -> None:
    shell.sign_in()
    assert shell.run("parent", "ls")[0] != 0  # Alice is no operator.
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    wish = shell.data("parent", "keep", "debian-12-server", "--flavour", "small")
    assert shell.data("parent", "keep", image_version.image.title, "--flavour", "small")["id"] == wish["id"]
    assert shell.data("parent", "kept")[0]["image"]["name"] == image_version.image.title
    assert shell.run("parent", "keep", "no-such-image", "--flavour", "small")[0] != 0
    tending.tend()
    parent = Parent.objects.get()
    assert shell.data("parent", "ls")[0]["state"] == "wanted"
    parents.record_failed(parent, message="It did not start.")
    Job.objects.all().delete()
    assert shell.data("parent", "retry", str(parent.pk))["state"] == "wanted"
    assert shell.run("parent", "no-longer", wish["id"])[0] == 0
    assert shell.data("parent", "kept") == []
    Machine.objects.update(made_by="boot", made_by_reason="It did not start.")
    assert shell.data("show", machine.name)["made_by_reason"] == "It did not start."


def test_a_portal_that_does_not_answer_and_one_that_is_none(shell: Shell) -> None:
    url = f"http://localhost:{free_port()}"
    code, _out, said = shell.run("ls", CASEMENT_PORTAL=url, CASEMENT_TOKEN="casement_x")
    assert (code, "does not answer" in said) == (6, True), said
    assert "Traceback" not in said
    assert shell.secret not in said


def test_shells_complete_commands_and_names(shell: Shell, machine: Machine) -> None:
    assert "_CASEMENT_COMPLETE" in shell.run("completion", "bash")[1]
    words = {"COMP_WORDS": "casement show be", "COMP_CWORD": "2", "_CASEMENT_COMPLETE": "bash_complete"}
    assert not shell.run(**words)[1].strip(), "nobody is signed in"
    shell.sign_in()
    code, out, _said = shell.run(**words)
    assert code == 0 and "beacon" in out


# --- the screen ---------------------------------------------------------------------------------------------------


@pytest.fixture
def screen(machine: Machine) -> Iterator[Screen]:
    with TemporaryDirectory(prefix="casement-") as folder:
        found = Screen(f"{folder}/vnc.sock")
        Machine.objects.filter(pk=machine.pk).update(console_socket=found.path, console_secret=seal(SECRET))
        with shown(found):
            yield found


def _greeted(port: int, own_port: int = 0) -> socket.socket:
    """As a viewer does it, up to the display's name."""
    viewer = _connected(port, own_port)
    read = partial(_exactly, viewer)
    assert read(12) == b"RFB 003.008\n"
    viewer.sendall(b"RFB 003.008\n")
    assert 1 in read(read(1)[0])  # Of the kinds of security that are offered, that of asking for none.
    viewer.sendall(b"\x01")
    assert read(4) == b"\0\0\0\0"
    viewer.sendall(b"\x01")
    head = read(24)
    assert read(int.from_bytes(head[20:24])) == b"beacon"
    return viewer


def _connected(port: int, own_port: int = 0) -> socket.socket:
    """From a port that other connections may have, too, as a system short of them gives them out."""
    found = socket.socket()
    found.settimeout(60)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", own_port))
    found.connect(("127.0.0.1", port))
    return found


def _exactly(viewer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = viewer.recv(size - len(data))
        assert piece, "the screen was closed"
        data += piece
    return data


def test_a_screen_is_on_a_local_port_while_the_command_runs(shell: Shell, screen: Screen, machine: Machine) -> None:
    shell.sign_in()
    process = shell.start("-o", "json", "vnc", "beacon")
    port = _port_of(process)
    viewer = _greeted(port)
    session = ConsoleSession.objects.get()
    assert (session.user_name, session.ended_at) == ("alice", None)
    viewer.close()
    assert process.wait(LIMIT_S) == 0
    wait_for("its session has ended", ConsoleSession.objects.exclude(ended_at=None).exists, seconds=LIMIT_S, every=0.1)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_viewer_may_have_a_port_that_serves_another_connection(shell: Shell, screen: Screen) -> None:
    shell.sign_in()
    process = shell.start("-o", "json", "vnc", "beacon")
    port = _port_of(process)
    with socket.create_server(("127.0.0.1", 0)) as other, _connected(other.getsockname()[1]) as first:
        _greeted(port, first.getsockname()[1]).close()
    assert process.wait(LIMIT_S) == 0
    assert screen.opened == 1


@dataclass
class OpenMinded(Screen):
    """Takes all that a real viewer says: each message is as long as it says itself."""

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (kind,) = await reader.readexactly(1)
        if kind == SET_ENCODINGS:
            head = await reader.readexactly(3)
            await reader.readexactly(4 * int.from_bytes(head[1:]))
            return
        await reader.readexactly({SET_PIXEL_FORMAT: 19, KEY_EVENT: 7, POINTER_EVENT: 5}.get(kind, 9))
        if kind == UPDATE_REQUEST and self.painted < 3:
            red, green, blue = self.colour
            head = struct.pack(">BxHHHHHi", 0, 1, 0, 0, WIDTH, HEIGHT, 0)
            writer.write(head + bytes([blue, green, red, 0]) * (WIDTH * HEIGHT))
            self.painted += 1


SET_PIXEL_FORMAT, SET_ENCODINGS, UPDATE_REQUEST, KEY_EVENT, POINTER_EVENT = 0, 2, 3, 4, 5


@pytest.fixture
def x_display(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An X server that nobody sees, and the file with its pixels. It says itself which number it has taken."""
    reading, writing = os.pipe()
    argv = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    with (tmp_path / "xvfb.log").open("wb") as log, os.fdopen(reading) as told:
        process = subprocess.Popen([*argv, "-fbdir", str(tmp_path)], pass_fds=[writing], stdout=log, stderr=log)
        os.close(writing)
        try:
            yield f":{told.readline().strip()}", tmp_path / "Xvfb_screen0"
        finally:
            process.terminate()
            process.wait()


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no X server here")
@pytest.mark.parametrize("viewer", ["vncviewer", "remote-viewer"])
def test_a_viewer_that_people_use_shows_the_screen(
    shell: Shell, machine: Machine, x_display: tuple[str, Path], tmp_path: Path, viewer: str
) -> None:
    """TigerVNC's own and virt-viewer's are started by the command; what the display sends is on their X server; they
    end with the token.
    """
    if shutil.which(viewer) is None:
        pytest.skip(f"no {viewer} here")
    shell.sign_in()
    display, pixels = x_display
    with TemporaryDirectory(prefix="casement-") as folder:
        screen = OpenMinded(f"{folder}/vnc.sock")
        Machine.objects.filter(pk=machine.pk).update(console_socket=screen.path, console_secret=seal(SECRET))
        red, green, blue = screen.colour
        # The fourth byte is nothing's, or how little one sees through it.
        lines = [bytes([blue, green, red, fourth]) * (WIDTH // 2) for fourth in (0, 255)]

        def is_painted() -> bool:
            seen = pixels.read_bytes()
            return any(line in seen for line in lines)

        with shown(screen):
            started = shell.start("vnc", "beacon", "--viewer", viewer, DISPLAY=display, NO_AT_BRIDGE="1")
            wait_for("it is painted", is_painted, seconds=LIMIT_S, every=0.2)
            assert ConsoleSession.objects.filter(ended_at=None, user_name="alice").exists()
            at_once([lambda: ApiToken.objects.all().delete()])
            _out, said = started.communicate(timeout=LIMIT_S)
    assert started.returncode == 1 and "your token ended" in said, said


def test_a_screen_that_is_off_says_so(shell: Shell, machine: Machine) -> None:
    Machine.objects.filter(pk=machine.pk).update(console_socket="", power_state="shut_off")
    shell.sign_in()
    process = shell.start("-o", "json", "vnc", "beacon")
    socket.create_connection(("127.0.0.1", _port_of(process)), timeout=60).close()
    _out, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode in {1, 5} and "off" in said, said


def test_another_user_of_this_machine_does_not_get_the_screen(shell: Shell, screen: Screen, machine: Machine) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    shell.sign_in()
    process = shell.start("-o", "json", "vnc", "beacon")
    port = _port_of(process)
    knock = f"exec 3<>/dev/tcp/127.0.0.1/{port}; head -c 12 <&3 | wc -c"
    other = subprocess.run(
        ["bash", "-c", knock], user=65534, cwd="/", capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert other.stdout.strip() == "0", other
    assert process.poll() is None, "nor does it end the command of whose the screen is"
    assert screen.opened == 0 and not ConsoleSession.objects.exists()


def _port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    told: list[str] = []
    reader = threading.Thread(target=lambda: told.extend(iter(process.stdout.readline, "}\n")), daemon=True)  # type: ignore[union-attr]  # asserted above
    reader.start()
    reader.join(LIMIT_S)
    return int(json.loads("".join([*told, "}"]))["port"])


def test_a_machine_is_cloned_made_an_image_of_and_rebuilt(
    shell: Shell, machine: Machine, image_version: ImageVersion
) -> None:
    shell.sign_in()
    job = shell.data("clone", "beacon", "torch", "--full", "--keep-identity")
    assert (job["kind"], job["target"]["name"]) == ("machine.clone", "torch")
    copy = DiskCopy.objects.get(machine__name="torch")
    assert (copy.base, copy.identity) == (None, "kept")
    assert shell.run("clone", "beacon", "lamp")[0] == 5, "it is being copied"
    cloning.release_source(copy)
    assert shell.run("clone", "beacon", "--snapshot", "none")[0] == 4
    assert shell.run("image", "capture", "beacon")[0] == 2
    made = shell.data("image", "capture", "beacon", "--title", "Torch")
    assert made["kind"] == "image.capture"
    assert Image.objects.get(title="Torch").versions.get().copy.source == machine
    cloning.release_source(DiskCopy.objects.get(version__image__title="Torch"))
    code, _out, said = shell.run("rebuild", "beacon", typed="torch\n")
    assert code == 1 and "lost" in said, said
    code, _out, said = shell.run("rebuild", "beacon", "--image", "debian-12-server", typed="beacon\n")
    assert code == 0, said
    machine.refresh_from_db()
    assert (machine.task, machine.next_version) == ("rebuilding", image_version)
