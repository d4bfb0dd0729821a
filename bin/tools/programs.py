"""The processes of a running Casement, and the supervisor's configuration made of them."""

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.options import ROOT, Options


@dataclass(frozen=True)
class Program:
    """`rank`: lower ones start first and stop last."""

    name: str
    argv: tuple[str, ...]
    rank: int
    stop_wait_s: int = 10


def programs(options: Options, *, with_libvirtd: bool) -> list[Program]:
    wanted = []
    if options.runs_redis:
        wanted.append(Program("redis", (redis_server(options.run_dir), str(options.run_dir / "redis.conf")), 10))
    if with_libvirtd:
        standby = str(ROOT / "bin" / "tools" / "standby.py")
        wanted.append(Program("libvirtd", (sys.executable, standby, str(options.run_dir / "libvirt")), 20))
    # A worker that is killed leaves its temporary files; here the next start removes them.
    spool = ("env", f"TMPDIR={temporary_folder(options)}")
    queues = options.setting("WORKER_QUEUES", "default,host.local")
    return [
        *wanted,
        Program("web", _web(options), 30),
        *_gateway(options),
        Program("worker", (*spool, *_celery_worker("worker", queues, options.setting("WORKER_CONCURRENCY", "4"))), 40),
        # A build takes minutes; it is not waited for, because the next start takes it up again.
        Program("images", (*spool, *_celery_worker("images", "images", "1")), 50, stop_wait_s=3),
        # A slow server may take hours to give an image, and no build should wait for that.
        Program("fetches", (*spool, *_celery_worker("fetches", "fetches", "2")), 52, stop_wait_s=3),
        # It waits for other people's servers most of the time, and must never keep machines waiting.
        Program("hooks", (*spool, *_celery_worker("hooks", "hooks", "8", "--pool", "threads")), 55),
        Program("watch", _python("workers.watch"), 60),
        Program("beat", _celery("beat", "--pidfile="), 70),
    ]


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _celery(*arguments: str) -> tuple[str, ...]:
    return _python("celery", "-A", "workers.celery:app", *arguments)


def _celery_worker(name: str, queues: str, concurrency: str, *more: str) -> tuple[str, ...]:
    sizes = ("--concurrency", concurrency, "--prefetch-multiplier", "1")
    # Workers find each other through their results and heartbeats in other products; ours need none of it.
    quiet = ("--without-gossip", "--without-mingle")
    return _celery("worker", "-Q", queues, "-n", f"{name}@%h", *sizes, *quiet, *more)


def _web(options: Options) -> tuple[str, ...]:
    # Uploads are spooled where there is room for disks; /tmp often lies in memory.
    spool = ("env", f"TMPDIR={options.home / 'uploads'}")
    argv = (*spool, *_python("uvicorn", "portal.asgi:application", "--host", options.bind, "--port", str(options.port)))
    # Screens go their own way, past ASGI messages. They are compressed already: again would cost most of the speed.
    frames = ("--ws", "portal.console.stream:StreamProtocol", "--ws-per-message-deflate", "false")
    sockets = (*frames, "--ws-max-size", str(2 * 1024**2), "--ws-ping-interval", "20", "--ws-ping-timeout", "120")
    # uvicorn would believe forwarding headers of anyone on this machine, unless it is told not to.
    proxy: tuple[str, ...] = ("--no-proxy-headers",)
    if options.setting("TRUST_PROXY").lower() in {"1", "true", "yes", "on"}:
        proxy = ("--proxy-headers", "--forwarded-allow-ips", options.setting("FORWARDED_ALLOW_IPS", "127.0.0.1"))
    return (*argv, *sockets, *proxy, "--no-access-log", "--timeout-graceful-shutdown", "5", "--lifespan", "off")


def _gateway(options: Options) -> list[Program]:
    """Consoles in a process of their own, if somebody asked for it by a port."""
    if options.gateway_port is None:
        return []
    address = ("--bind", options.bind, "--port", str(options.gateway_port))
    return [Program("gateway", (sys.executable, "manage.py", "gateway", *address), 35)]


def temporary_folder(options: Options) -> Path:
    return options.run_dir / "tmp"


def redis_server(run_dir: Path) -> str:
    """The server's program. Debian's redis-tools has it under a name by which it is another tool: the name decides."""
    path = f"{os.environ.get('PATH', '')}:/usr/bin"
    server = shutil.which("redis-server", path=path)
    if server is not None:
        return server
    run_dir.mkdir(parents=True, exist_ok=True)
    link = run_dir / "redis-server"
    link.unlink(missing_ok=True)
    link.symlink_to(shutil.which("redis-check-rdb", path=path) or "/usr/bin/redis-check-rdb")
    return str(link)


def redis_configuration(options: Options) -> str:
    """A UNIX socket only, for this user only; what it was told survives a restart."""
    return f"""\
port 0
unixsocket "{options.run_dir / "redis.sock"}"
unixsocketperm 700
dir "{options.home / "redis"}"
appendonly yes
save ""
daemonize no
logfile ""
"""


def supervisor_configuration(options: Options, wanted: list[Program]) -> str:
    run, log = options.run_dir, options.log_dir
    head: dict[str, dict[str, object]] = {
        "supervisord": {
            "logfile": log / "supervisord.log",
            "logfile_maxbytes": "5MB",
            "logfile_backups": 2,
            "pidfile": run / "supervisord.pid",
            "childlogdir": log,
            "directory": ROOT,
            "minfds": 1024,
            **({"user": "root"} if options.is_root else {}),
        },
        "unix_http_server": {"file": run / "supervisor.sock", "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    sections = head | {f"program:{program.name}": _section(program, log) for program in wanted}
    return "\n".join(_section_text(name, values) for name, values in sections.items())


def _section(program: Program, log_dir: Path) -> dict[str, object]:
    # The kernel ends each process with the supervisor, even when that is killed outright.
    argv = ("setpriv", "--pdeathsig", "TERM", "--", *program.argv)
    return {
        "command": shlex.join(argv),
        "priority": program.rank,
        "autorestart": "true",
        "startsecs": 3,
        "startretries": 100,
        "stopsignal": "TERM",
        "stopwaitsecs": program.stop_wait_s,
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": log_dir / f"{program.name}.log",
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": 3,
    }


def _section_text(name: str, values: dict[str, object]) -> str:
    # "%" begins an expansion in supervisor's files.
    return f"[{name}]\n" + "".join(f"{key}={str(value).replace('%', '%%')}\n" for key, value in values.items())
