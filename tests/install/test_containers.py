"""docker-compose.yml, read by the real program: it is valid, and refuses to go on without secrets."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"CASEMENT_URL": "https://desktops.example.org", "POSTGRES_PASSWORD": "abc123"}

needs_compose = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")


def _compose(project: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    shutil.copy(ROOT / "bin" / "docker" / "sample.env", project / ".env")
    argv = ["docker-compose", "--project-directory", str(project), "-f", str(ROOT / "docker-compose.yml"), "config"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(project), **environ}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)


@needs_compose
def test_compose_accepts_the_file_with_settings(tmp_path: Path) -> None:
    done = _compose(tmp_path, **SETTINGS)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    own = {"prepare", "web", "gateway", "worker", "worker-images", "worker-hooks", "worker-fetches", "watcher", "beat"}
    assert set(services) == {"db", "redis"} | own
    assert services["gateway"]["profiles"] == ["gateway"], "it is started only when it is asked for"
    assert services["web"]["environment"]["DATABASE_URL"] == "postgres://casement:abc123@db/casement"


@needs_compose
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_compose_refuses_the_sample_as_it_is(tmp_path: Path, name: str) -> None:
    done = _compose(tmp_path, **{key: value for key, value in SETTINGS.items() if key != name})
    assert done.returncode != 0
    assert "set it in .env" in done.stderr + done.stdout


def test_every_image_has_a_version_and_every_long_running_service_comes_back() -> None:
    services = cast(dict[str, dict[str, Any]], yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
    for name, service in services.items():
        tag = service["image"].partition(":")[2]
        assert tag and tag != "latest", name
        assert service["restart"] == ("no" if name == "prepare" else "unless-stopped"), name
    assert all("privileged" not in service for service in services.values())
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "web": ["${BIND:-127.0.0.1}:${PORT:-8000}:8000"],
        "gateway": ["${BIND:-127.0.0.1}:${GATEWAY_PORT:-8001}:8001"],
    }


def test_the_images_have_versions_too_and_pages_are_not_served_by_root() -> None:
    lines = (ROOT / "bin" / "docker" / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert bases == ["debian:12.12-slim", "debian:12.12-slim", "web"]
    web = lines[lines.index("FROM debian:12.12-slim AS web") : lines.index("FROM web AS worker")]
    assert "USER 10001:10001" in web


def test_the_sample_holds_no_secret_that_works() -> None:
    lines = (ROOT / "bin" / "docker" / "sample.env").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert json.dumps({name: values[name] for name in ("SECRET_KEY", "POSTGRES_PASSWORD", "CASEMENT_URL")}) == (
        '{"SECRET_KEY": "", "POSTGRES_PASSWORD": "", "CASEMENT_URL": ""}'
    )
