"""Files of checksums, signed by real keys and looked at by the real gpgv, as a sandbox has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from portal.images import signing
from tests.support.signatures import Maker, maker
from workers.imaging import signature
from workers.imaging.commands import run
from workers.imaging.signature import BadSignatureError, signed_text

SUMS = b"0123abcd  disk.img\n"


@pytest.fixture(scope="module")
def debby() -> Iterator[Maker]:
    with maker() as found:
        yield found


@pytest.fixture(scope="module")
def mallory() -> Iterator[Maker]:
    with maker() as found:
        yield found


def test_what_was_signed_is_given_back_and_nothing_around_it(debby: Maker) -> None:
    inside = debby.signed(SUMS)
    assert signed_text(inside, None, debby.key) == SUMS
    around = b"6666eeee  disk.img\n\n" + inside + b"7777ffff  disk.img\n"
    try:
        found = signed_text(around, None, debby.key)
    except BadSignatureError:
        return
    assert found == SUMS


@pytest.mark.parametrize("options", [(), ("--armor",)])
def test_a_signature_that_lies_beside_it(debby: Maker, options: tuple[str, ...]) -> None:
    assert signed_text(SUMS, debby.signature(SUMS, *options), debby.key) == SUMS


Spoil = Callable[[Maker, Maker], tuple[bytes, bytes | None]]


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda debby, _mallory: (debby.signed(SUMS).replace(b"0123", b"6666"), None),
        lambda _debby, mallory: (mallory.signed(SUMS), None),
        lambda _debby, _mallory: (SUMS, None),
        lambda _debby, _mallory: (b"", None),
        lambda debby, _mallory: (b"6666eeee  disk.img\n", debby.signature(SUMS)),
        lambda _debby, mallory: (SUMS, mallory.signature(SUMS)),
        lambda _debby, _mallory: (SUMS, b""),
        lambda _debby, _mallory: (SUMS, b"not a signature"),
        lambda debby, _mallory: (SUMS, debby.signature(SUMS)[:-20]),
        lambda debby, mallory: (SUMS, debby.signature(SUMS) + mallory.signature(SUMS)),
        lambda debby, _mallory: (debby.signed(SUMS, "--digest-algo", "SHA1"), None),
        lambda debby, mallory: (debby.signed(SUMS) + mallory.signed(b"6666eeee  disk.img\n"), None),
        lambda debby, _mallory: (debby.signed(SUMS) + debby.signed(b"6666eeee  disk.img\n"), None),
    ],
    ids=[
        "changed after signing",
        "signed by another",
        "not signed",
        "empty",
        "another file's signature",
        "another's signature",
        "an empty signature",
        "no signature",
        "half a signature",
        "another's behind it",
        "by a broken digest",
        "another's text behind it",
        "two texts",
    ],
)
def test_what_is_not_signed_as_it_should_be_is_refused(debby: Maker, mallory: Maker, spoilt: Spoil) -> None:
    data, beside = spoilt(debby, mallory)
    with pytest.raises(BadSignatureError):
        signed_text(data, beside, debby.key)


def test_a_key_that_is_over_signs_nothing() -> None:
    with maker(expires="seconds=1") as short:
        made = short.signed(SUMS)
        with pytest.raises(BadSignatureError):
            for _try in range(200):
                signed_text(made, None, short.key)


def test_it_runs_as_nobody_and_reaches_nobody() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    look = "id -u; cut -s -d: -f1 /proc/net/dev; grep NoNewPrivs /proc/self/status"
    output = run([*signature._apart(), "sh", "-c", look])
    assert output.split() == ["65534", "lo", "NoNewPrivs:", "1"], "it has no network card"


def test_keys_come_as_text_or_as_they_are_from_the_operators_folder(
    debby: Maker, mallory: Maker, settings: Settings, tmp_path: Path
) -> None:
    settings.KEYRINGS_DIR = tmp_path
    assert signing.keyring_of("") == b""
    assert signing.keyring_of(signing.of_maker("fedora")) == b"", "there is no key, so nobody has to sign"
    (tmp_path / "fedora.asc").write_text(f"What it is for\n{debby.armored_key}\n{mallory.armored_key}")
    both = signing.keyring_of(signing.of_maker("fedora"))
    assert both == debby.key + mallory.key
    for one in (debby, mallory):
        assert signed_text(one.signed(SUMS), None, both) == SUMS
    (tmp_path / "fedora.gpg").write_bytes(debby.key)
    assert signing.keyring_of(signing.of_maker("fedora")) == debby.key
    assert signing.dearmored(debby.armored_key.replace("\n", "\r\n")) == debby.key
    (tmp_path / "fedora.gpg").write_bytes(b"")
    with pytest.raises(signing.KeyTextError):
        signing.keyring_of(signing.of_maker("fedora"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!!\n-----END PGP PUBLIC KEY BLOCK-----",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\naGVsbG8=\n-----END PGP PUBLIC KEY BLOCK-----",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nmDME\n-----END PGP PRIVATE KEY BLOCK-----",
    ],
)
def test_a_text_that_is_no_public_key_is_none(text: str) -> None:
    with pytest.raises(signing.KeyTextError):
        signing.dearmored(text)
