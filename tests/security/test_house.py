"""Rows 19, 25, 26 and 29, as the whole source has it: no shell, no probing, no XML out of pieces of text, no metadata
service. What is added later is in here at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("portal", "workers", "bin") for path in (ROOT / folder).rglob("*.py"))
# How a program is started that finds its arguments by itself.
SHELLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "commands.getoutput",
}
# Ways in which data becomes code.
CODE = {"eval", "exec", "pickle.loads", "pickle.load", "marshal.loads", "yaml.load", "yaml.unsafe_load", "shelve.open"}


def trees() -> Iterator[tuple[str, ast.AST]]:
    for path in SOURCES:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def _places(wrong: Callable[[ast.AST], bool]) -> list[str]:
    return [f"{name}:{getattr(node, 'lineno', 0)}" for name, tree in trees() for node in ast.walk(tree) if wrong(node)]


def _called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _is_true(node: ast.expr) -> bool:
    return not (isinstance(node, ast.Constant) and node.value is False)


def runs_a_shell(node: ast.AST) -> bool:
    """By a function for it, by `shell=`, or by a shell's `-c` with something that is put together."""
    if isinstance(node, ast.List | ast.Tuple):
        words = [item.value if isinstance(item, ast.Constant) else None for item in node.elts]
        is_shell = bool(words) and str(words[0]).rpartition("/")[2] in {"sh", "bash", "dash"}
        return is_shell and "-c" in words and None in words
    if not isinstance(node, ast.Call):
        return False
    return _called(node) in SHELLS or any(word.arg == "shell" and _is_true(word.value) for word in node.keywords)


def begins_a_program_by_one_text(node: ast.AST) -> bool:
    """A text in place of a list of arguments."""
    starts = {"subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.check_call", "run"}
    if not isinstance(node, ast.Call) or _called(node) not in starts or not node.args:
        return False
    first = node.args[0]
    return isinstance(first, ast.JoinedStr) or (isinstance(first, ast.Constant) and isinstance(first.value, str))


def makes_code_of_data(node: ast.AST) -> bool:
    return _called(node) in CODE


def glues_xml(node: ast.AST) -> bool:
    """A text that begins an element and has something put into it."""
    if not isinstance(node, ast.JoinedStr):
        return False
    said = "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
    return bool(re.search(r"<[a-zA-Z][^<>]*[\s>'\"=]", said)) and "\0" in said


def probes(node: ast.AST) -> bool:
    """qemu-img without the format of what it reads, or of the base that it names."""
    if not isinstance(node, ast.List | ast.Tuple) or not node.elts:
        return False
    words = [str(item.value) if isinstance(item, ast.Constant) else "" for item in node.elts]
    if words[0] != "qemu-img":
        return False
    if "snapshot" in words:  # The one subcommand that knows no -f: its image is a node with a driver.
        return not any("_qcow2_alone(" in ast.unparse(item) for item in node.elts)
    by_options = "--image-opts" in words and any("driver=" in ast.unparse(item) for item in node.elts)
    return not (by_options or "-f" in words) or ("-b" in words and "-F" not in words)


def test_no_shell_runs_anything() -> None:
    """Row 26."""
    assert _places(runs_a_shell) == []
    assert _places(begins_a_program_by_one_text) == []


def test_no_data_becomes_code() -> None:
    """Row 24: what others send is read as data."""
    assert _places(makes_code_of_data) == []


def test_no_xml_is_glued() -> None:
    """Row 25."""
    assert _places(glues_xml) == []


def test_qemu_img_never_probes() -> None:
    """Row 19, also for calls that are made anywhere else than where they should be."""
    assert _places(probes) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("subprocess.run(argv, shell=True)", runs_a_shell),
        ("subprocess.run(argv, shell=is_windows)", runs_a_shell),
        ("os.system('ls')", runs_a_shell),
        ("run(['/bin/sh', '-c', f'rm {name}'])", runs_a_shell),
        ("subprocess.run(f'rm {name}')", begins_a_program_by_one_text),
        ("eval(text)", makes_code_of_data),
        ("yaml.load(text)", makes_code_of_data),
        ("f'<name>{name}</name>'", glues_xml),
        ("['qemu-img', 'info', path]", probes),
        ("['qemu-img', 'create', '-f', 'qcow2', '-b', base, path]", probes),
        ("['qemu-img', 'snapshot', '-c', name, path]", probes),
        ("['qemu-img', 'convert', '--image-opts', f'file.filename={path}']", probes),
    ],
)
def test_what_is_wrong_would_be_found(text: str, wrong: Callable[[ast.AST], bool]) -> None:
    assert any(wrong(node) for node in ast.walk(ast.parse(text)))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("subprocess.run(argv)", runs_a_shell),
        ("run(['rm', '--', name])", runs_a_shell),
        ("['qemu-img', 'create', '-f', 'qcow2', '-b', base, '-F', fmt, path]", probes),
        ("['qemu-img', 'snapshot', '-c', name, _qcow2_alone(path)]", probes),
        ("f'{a} < {b}'", glues_xml),
        ("'<name>'", glues_xml),
    ],
)
def test_what_is_right_is_not_taken_for_wrong(text: str, right: Callable[[ast.AST], bool]) -> None:
    assert not any(right(node) for node in ast.walk(ast.parse(text)))


def test_guests_ask_no_metadata_service() -> None:
    """Row 29: a machine's seed is a disc of its own. Our images look nowhere else, and nothing here answers there."""
    base = yaml.safe_load((ROOT / "workers/imaging/recipes/_base.yaml").read_text(encoding="utf-8"))
    lists = re.findall(r"datasource_list: *\[(.*?)\]", str(base))
    assert lists == ["NoCloud, None"]
    network = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "workers/hypervisor").rglob("*.py"))
    assert "169.254.169.254" not in network
