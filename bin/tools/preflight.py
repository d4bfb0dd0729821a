"""Is this machine fit for Casement? Each problem is one sentence that says what is wrong and how to mend it.

Runs before anything is installed, so it uses the standard library only: `python3 -m tools.preflight`.
"""

import os
import platform
import shutil
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.lock import already_running
from tools.options import Options, UsageError, parse

GIB = 1024**3
DISK_NEEDED_GIB = 10
MEMORY_NEEDED_GIB = 3
SOCKET_PATH_LIMIT = 107
# libvirt puts its own number for the machine and the first 20 characters of the machine's name in it.
LONGEST_SOCKET = "/libvirt/qemu/channel/target/domain-999-casement-01234567-89/org.qemu.guest_agent.0"


def main(argv: list[str]) -> int:
    try:
        options = parse(argv)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 1
    quiet = "--quiet" in argv
    running = already_running(options)
    if running and "--check" not in argv:
        print(running, file=sys.stderr)
        return 1
    problems = list(find_problems(options, look_at_port=not running))
    for problem in problems:
        print(problem, file=sys.stderr)
    if not quiet:
        for remark in [*([running] if running else []), *find_remarks(options)]:
            print(remark)
        if not problems:
            print("This machine is fit for Casement.")
    return 1 if problems else 0


def find_problems(options: Options, *, look_at_port: bool = True) -> Iterator[str]:
    """What keeps Casement from running."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        yield f"Casement's images are for x86-64, and this machine is {platform.machine()}: use another machine."
    yield from _folder_problems(options)
    yield from _disk_problems(options)
    yield from memory_problems(Path("/proc/meminfo"))
    if look_at_port:
        yield from port_problems(options)
    if options.is_root:
        yield from closed_folder_problems(options.pool_dir)
    else:
        yield from socket_path_problems(options.environ)


def find_remarks(options: Options) -> Iterator[str]:
    """What works, but could be better, or is worth knowing."""
    if not own_name_resolves():
        yield unresolved_name()
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        yield "/dev/kvm is there: whether guests really run with it shows in a test boot once Casement has started."
    else:
        yield "No usable /dev/kvm: machines will be emulated, which works but is several times slower."
    if not options.is_root:
        yield "Not root: machines run as you (qemu:///session) and reach the network by QEMU's own user-mode network."


def _folder_problems(options: Options) -> Iterator[str]:
    for folder in (options.home, options.run_dir, options.pool_dir):
        existing = nearest_existing(folder)
        if not os.access(existing, os.W_OK | os.X_OK):
            yield (
                f"{existing} is not writable for this user, so {folder} cannot be made: "
                "set CASEMENT_HOME or POOL_DIR to a folder of your own."
            )
            return


def _disk_problems(options: Options) -> Iterator[str]:
    seen = set()
    for folder in (options.pool_dir, options.home):
        existing = nearest_existing(folder)
        device = existing.stat().st_dev
        free = shutil.disk_usage(existing).free / GIB
        if device not in seen and free < DISK_NEEDED_GIB:
            yield (
                f"{existing} has {free:.1f} GiB free, and images and machines need at least {DISK_NEEDED_GIB}: "
                "free some, or set CASEMENT_HOME and POOL_DIR to folders on a larger disk."
            )
        seen.add(device)


def memory_problems(meminfo: Path) -> Iterator[str]:
    total = memory_total_mib(meminfo) / 1024
    # A machine sold as 3 GB shows a little less.
    if total < MEMORY_NEEDED_GIB * 0.9:
        yield (
            f"This machine has {total:.1f} GiB of memory, and Casement with one desktop needs {MEMORY_NEEDED_GIB}: "
            "give it more."
        )


def memory_total_mib(meminfo: Path = Path("/proc/meminfo")) -> int:
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return 0


def port_problems(options: Options) -> Iterator[str]:
    family = socket.AF_INET6 if ":" in options.bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.bind, options.port))
            probe.listen()
        except OSError as error:
            yield (
                f"Port {options.port} on {options.bind} cannot be used ({os.strerror(error.errno or 0)}): "
                "choose another with --port, or end what uses it."
            )


def closed_folder_problems(pool_dir: Path) -> Iterator[str]:
    """QEMU runs as a user of its own, which must pass through every folder on the way to the disks."""
    for folder in pool_dir.parents:
        if folder.is_dir() and not folder.stat().st_mode & stat.S_IXOTH:
            yield (
                f"QEMU's user cannot pass through {folder}, which leads to the disks in {pool_dir}: "
                f"run chmod o+x {folder}, or set POOL_DIR to another folder."
            )


def socket_path_problems(environ: Mapping[str, str]) -> Iterator[str]:
    """A user's own libvirt makes its sockets among the user's settings, whatever we say; Linux takes 107 bytes."""
    named = environ.get("XDG_CONFIG_HOME")
    folder = Path(named) if named else Path(environ.get("HOME") or "~").expanduser() / ".config"
    most = SOCKET_PATH_LIMIT - len(LONGEST_SOCKET)
    if len(os.fsencode(folder)) > most:
        yield (
            f"The path {folder} is too long for libvirt's sockets in it, so no machine could start: "
            f"set XDG_CONFIG_HOME to a folder of your own whose path has at most {most} characters."
        )


def nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def own_name_resolves(seconds: float = 2.0) -> bool:
    """True if this machine's own name resolves quickly. libvirt asks for it at every start of a guest."""
    found = threading.Event()

    def resolve() -> None:
        try:
            socket.getaddrinfo(socket.gethostname(), None)
        except OSError:
            return
        found.set()

    # A thread of its own: a name server that does not answer holds the call for many seconds.
    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(seconds)
    return found.is_set()


def unresolved_name() -> str:
    name = socket.gethostname()
    return (
        f"This machine's own name does not resolve, which makes every start of a guest about 10 s slower. "
        f"To mend it, add this line to /etc/hosts: 127.0.1.1 {name}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
