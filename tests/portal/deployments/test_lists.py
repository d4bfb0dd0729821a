"""What people type, paste, upload as a list of people, and what is made of it."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group

from portal.accounts.guests import make_guest
from portal.accounts.models import User
from portal.deployments.lists import MOST_PEOPLE, as_text, decoded, entries_of, groups_for, members_of, names_in
from portal.errors import InvalidError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("\n \n", []),
        ("mia\nnoah\n", ["mia", "noah"]),
        ("mia\r\nnoah", ["mia", "noah"]),
        ("\ufeffmia\nMia\nMIA\nnoah", ["mia", "noah"]),
        ("  Mia   Marple \n", ["Mia Marple"]),
        ("username,mark\nmia,1\nnoah,2\n", ["mia", "noah"]),
        ("Name;E-Mail\nMia M.;mia@example.org\nNoah N.;noah@example.org", ["mia@example.org", "noah@example.org"]),
        ("last\tuser name\nM\tmia\nN\tnoah", ["mia", "noah"]),
        ('"Marple, Mia"\n"Quint ""Q"" Noah"', ["Marple, Mia", 'Quint "Q" Noah']),
        ("mia,1\nnoah,2", ["mia", "noah"]),
        ("email\n\nmia@example.org\n,\n", ["mia@example.org"]),
    ],
)
def test_a_list_is_read_as_people_write_it(text: str, names: list[str]) -> None:
    assert names_in(text) == names
    assert names_in(as_text(names)) == names


def test_somebody_who_is_called_like_a_heading_is_not_lost() -> None:
    assert names_in(as_text(["user", "mail"])) == ["user", "mail"]


@pytest.mark.parametrize("text", ['"mia\nnoah', "mia\x1b[2J", "mi\u202ea", "x" * 151, "n\u200b"])
def test_what_is_no_name_is_refused_with_the_line(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        names_in(text)
    assert caught.value.field == "people"


def test_too_many_are_refused() -> None:
    assert len(names_in("\n".join(f"p{n}" for n in range(MOST_PEOPLE)))) == MOST_PEOPLE
    with pytest.raises(InvalidError, match="at most 200 people; this list has 201"):
        names_in("\n".join(f"p{n}" for n in range(MOST_PEOPLE + 1)))


def test_a_file_of_a_spreadsheet_is_read_and_no_other() -> None:
    assert decoded("mia;ü".encode("utf-8-sig")) == "mia;ü"
    assert decoded("mia\tü".encode("utf-16")) == "mia\tü"
    for data in (b"\xff\xd8\xff\xe0 a picture", b"x" * (256 * 1024 + 1)):
        with pytest.raises(InvalidError) as caught:
            decoded(data)
        assert caught.value.field == "file"


def test_accounts_are_found_by_name_and_mail_and_once(alice: User, bob: User) -> None:
    found = entries_of(["ALICE", "bob@example.org", "alice@example.org", "nobody", "Nobody"])
    assert [(one.label, one.person) for one in found] == [
        ("ALICE", alice),
        ("bob@example.org", bob),
        ("nobody", None),
    ]


def test_who_cannot_sign_in_has_no_account(alice: User, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    guest = make_guest("Mia", until=alice.date_joined)
    found = entries_of(["bob", guest.username])
    assert [one.person for one in found] == [None, None]


def test_a_name_of_several_people_is_not_guessed_at(alice: User, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(email="Alice@example.org")
    assert entries_of(["alice"])[0].person == alice
    with pytest.raises(InvalidError, match="Several people match"):
        entries_of(["alice@example.org"])


def test_groups_of_others_are_for_operators(alice: User, bob: User, operator: User) -> None:
    mine, theirs = Group.objects.create(name="10b"), Group.objects.create(name="11a")
    mine.user_set.add(alice, bob)
    theirs.user_set.add(bob)
    assert list(groups_for(alice)) == [mine]
    assert list(groups_for(operator)) == [mine, theirs]
    assert members_of(mine) == ["alice", "bob"]
