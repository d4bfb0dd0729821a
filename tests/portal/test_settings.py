"""The settings refuse what would be unsafe, and say in a sentence what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client

from portal.accounts.models import User
from tests.conftest import PASSWORD

ROOT = Path(__file__).resolve().parents[2]
SECRET = "".join(chr(33 + number % 90) for number in range(60))


def start(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Load the settings as a real start does, with nothing of the tests' environment."""
    names = [
        "CSRF_TRUSTED_ORIGINS",
        "ALLOWED_HOSTS",
        "SESSION_COOKIE_SECURE",
        "SECURE_PROXY_SSL_HEADER",
        "FORCE_SCRIPT_NAME",
    ]
    code = f"import portal.settings as s; print({{name: getattr(s, name, None) for name in {names!r}}})"
    clean = {"PATH": os.environ["PATH"], "CASEMENT_HOME": str(tmp_path), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("secret", ["", "short", "x" * 60, f"django-insecure-{SECRET}"])
def test_a_missing_weak_or_sample_secret_is_refused(tmp_path: Path, secret: str) -> None:
    done = start(tmp_path, SECRET_KEY=secret)
    assert done.returncode != 0
    assert "SECRET_KEY must be a secret of at least 50 characters" in done.stderr


def test_a_good_secret_is_taken_from_the_environment_file(tmp_path: Path) -> None:
    (tmp_path / "casement.env").write_text(f"SECRET_KEY='{SECRET.replace(chr(39), 'x')}'\n")
    assert start(tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALLOWED_HOSTS", "*", "must name the portal's hosts"),
        ("CASEMENT_URL", "desktops.example.org", "must be a whole address"),
        ("METRICS_TOKEN", "short", "must be at least 20 characters"),
        ("LOG_FORMAT", "xml", "must be one of line, json"),
        ("FETCH_PRIVATE_NETWORKS", "intranet", "must be networks such as"),
        ("FETCH_PRIVATE_NETWORKS", "10.1.0.0/16,127.0.0.0/8", "must not hold 127.0.0.0/8"),
        ("FETCH_PRIVATE_NETWORKS", "0.0.0.0/0", "must not hold 0.0.0.0/0"),
        ("FETCH_PRIVATE_NETWORKS", "169.254.169.254/32", "must not hold 169.254.169.254/32"),
        ("FETCH_PRIVATE_NETWORKS", "::1/128", "must not hold ::1/128"),
        ("FETCH_PRIVATE_NETWORKS", "::ffff:7f00:0/104", "must not hold ::ffff:7f00:0/104"),
        ("FETCH_PRIVATE_NETWORKS", "::/0", "must not hold ::/0"),
        ("CASEMENT_URL", "ftp://desktops.example.org", "must be a whole address"),
    ],
)
def test_a_setting_that_would_be_unsafe_is_refused(tmp_path: Path, name: str, value: str, words: str) -> None:
    done = start(tmp_path, SECRET_KEY=SECRET, **{name: value})
    assert done.returncode != 0
    assert words in done.stderr


PORTAL = "https://desktops.example.org"


@pytest.mark.parametrize(
    ("address", "more", "words"),
    [
        ("desktops.example.org:8443", {}, "must be a whole address"),
        ("https://desktops.example.org:8443/", {}, "must be a whole address"),
        ("wss://alice:secret@desktops.example.org/", {}, "must be a whole address"),
        ("wss://desktops.example.org/?token=x", {}, "must be a whole address"),
        ("ws://desktops.example.org:8443/", {}, "must be wss://"),
        ("wss://console.example.org/", {}, "The session never gets from desktops.example.org to console.example.org"),
        ("wss://console.example.org/", {"SESSION_COOKIE_DOMAIN": "example.net"}, "The session never gets from"),
        ("wss://evilexample.org/", {"SESSION_COOKIE_DOMAIN": "example.org"}, "The session never gets from"),
    ],
)
def test_a_gateway_that_browsers_could_not_use_is_refused(
    tmp_path: Path, address: str, more: dict[str, str], words: str
) -> None:
    done = start(tmp_path, SECRET_KEY=SECRET, CASEMENT_URL=PORTAL, CONSOLE_GATEWAY_URL=address, **more)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize(
    ("address", "more"),
    [
        ("", {}),
        ("wss://desktops.example.org:8443/", {}),
        ("wss://console.example.org/", {"SESSION_COOKIE_DOMAIN": "example.org"}),
        ("wss://console.example.org/", {"SESSION_COOKIE_DOMAIN": ".example.org"}),
    ],
)
def test_a_gateway_on_another_port_or_with_the_session_of_both_is_taken(
    tmp_path: Path, address: str, more: dict[str, str]
) -> None:
    done = start(tmp_path, SECRET_KEY=SECRET, CASEMENT_URL=PORTAL, CONSOLE_GATEWAY_URL=address, **more)
    assert done.returncode == 0, done.stderr


def test_one_setting_makes_sign_in_work_behind_a_tls_proxy_and_a_path(tmp_path: Path) -> None:
    done = start(tmp_path, SECRET_KEY=SECRET, CASEMENT_URL="https://desktops.example.org/vdi")
    assert "'CSRF_TRUSTED_ORIGINS': ['https://desktops.example.org']" in done.stdout
    assert "'SESSION_COOKIE_SECURE': True" in done.stdout
    assert "'FORCE_SCRIPT_NAME': '/vdi'" in done.stdout
    assert "'SECURE_PROXY_SSL_HEADER': None" in done.stdout, "a header that anyone can send is not believed by default"


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(client: Client, alice: User) -> None:
    client.post("/login/", {"username": "alice", "password": PASSWORD})
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"


def test_nobody_gets_a_session_before_signing_in(client: Client, db: None) -> None:
    for path in ("/", "/login/", "/machines/"):
        client.get(path, follow=True)
    assert settings.SESSION_COOKIE_NAME not in client.cookies


def test_every_page_forbids_foreign_and_inline_scripts(client: Client, db: None) -> None:
    policy = client.get("/login/")["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
