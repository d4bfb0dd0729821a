"""`bin/run` from the moment its Python environment exists: check, prepare, start everything, stay until Ctrl-C."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tools import envfile
from tools.lock import already_running, take_lock
from tools.options import ROOT, Options, UsageError, parse
from tools.orphans import end_orphans
from tools.preflight import find_problems, own_name_resolves, unresolved_name
from tools.programs import programs, redis_configuration, supervisor_configuration, temporary_folder
from tools.supervise import Supervisor, web_answers

WEB_LIMIT_S = 90.0


def main(argv: list[str]) -> int:
    started = time.monotonic()
    try:
        options = parse(argv)
        _make_folders(options)
        _refuse_a_second(options)
        first_password = _prepare(options)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    return _serve(options, first_password, started)


def _make_folders(options: Options) -> None:
    try:
        options.home.mkdir(parents=True, exist_ok=True)
        for folder in (options.run_dir, options.log_dir, options.home / "redis"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be made ({error.strerror}): set CASEMENT_HOME to a folder of your own."
        ) from error


def _refuse_a_second(options: Options) -> None:
    if not take_lock(options):
        raise UsageError(already_running(options) or "Casement is being started by another bin/run already.")
    ended = end_orphans(options.home)
    if ended:
        print(f"Ended {ended} processes that an earlier run had left behind.")
    problems = list(find_problems(options))
    if problems:
        raise UsageError("\n".join(problems))


def _prepare(options: Options) -> str:
    """Settings, database, static files. Returns what the administrator must read once."""
    if envfile.write_once(options.env_file, options.first_settings()):
        print(f"Wrote {options.env_file}: a new secret key, the address and the port.")
    if not own_name_resolves():
        print(unresolved_name())
    environment = options.child_environment() | {"PYTHONPATH": f"{ROOT / 'bin'}:{ROOT}"}
    argv = [sys.executable, "-m", "tools.prepare", options.libvirt_uri, str(options.pool_dir)]
    done = subprocess.run(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UsageError("The database could not be brought up to date: the lines above say why.")
    return done.stdout.strip()


def _serve(options: Options, first_password: str, started: float) -> int:
    wanted = programs(options, with_libvirtd=_needs_own_libvirtd(options))
    _empty(temporary_folder(options))
    (options.run_dir / "redis.conf").write_text(redis_configuration(options), encoding="utf-8")
    configuration = supervisor_configuration(options, wanted)
    (options.run_dir / "supervisord.conf").write_text(configuration, encoding="utf-8")
    supervisor = Supervisor(options)
    supervisor.stop_on_signals()
    if supervisor.wait_for(lambda: web_answers(options), seconds=WEB_LIMIT_S):
        _greet(options, first_password, time.monotonic() - started)
    elif not supervisor.is_stopping:
        print(f"The portal does not answer yet; {options.log_dir / 'web.log'} says why.", file=sys.stderr)
        _show_password(first_password)
    else:
        _show_password(first_password)
    if not supervisor.is_stopping:
        _register_images(options)
    supervisor.watch()
    return _end(options, supervisor)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _needs_own_libvirtd(options: Options) -> bool:
    """Where systemd runs libvirtd it is used; a session's libvirtd starts by itself."""
    return options.is_root and not Path("/run/systemd/system").is_dir()


def _greet(options: Options, first_password: str, seconds: float) -> None:
    print(f"\nCasement runs at {options.url} (started in {seconds:.0f} s; Ctrl-C stops it, machines go on running).")
    _show_password(first_password)
    if options.is_local_only:
        print(
            "Only this machine can open it. To let others: "
            f"BIND=0.0.0.0 CASEMENT_URL=http://NAME-OF-THIS-MACHINE:{options.port} bin/run"
        )
    sys.stdout.flush()


def _show_password(text: str) -> None:
    if text:
        print(text)


def _register_images(options: Options) -> None:
    """Offer the recipes' images; the first start has them built. A failure keeps nothing else from running."""
    argv = [sys.executable, "-m", "workers.register_images"]
    done = subprocess.run(argv, cwd=ROOT, env=options.child_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print("The images could not be registered:", file=sys.stderr)
        print("\n".join(done.stderr.splitlines()[-5:]), file=sys.stderr)
    elif not any((options.home / "images").glob("*.qcow2")):
        print(
            "Building the images: the server takes about 2 minutes, the desktop 5. The Images page shows them coming."
        )
    sys.stdout.flush()


def _end(options: Options, supervisor: Supervisor) -> int:
    asked = bool(supervisor.stop_asked)
    if asked:
        print("\nStopping… (machines go on running)", flush=True)
    supervisor.stop()
    left = end_orphans(options.home)
    _empty(temporary_folder(options))
    if asked:
        print("Stopped.")
        return 0
    print(f"The supervisor ended by itself; {left} processes were ended after it. Run bin/run again.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
