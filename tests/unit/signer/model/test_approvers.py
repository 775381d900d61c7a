"""The file of approvers, and the text that they sign."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from signer.errors import ConfigurationError, InvalidInputError
from signer.model.approvers import Approvers, Consent, Statement, load_approvers
from tests.support.approvers import PAGE, Authenticator, SSHKey, approvers_of
from tests.support.approvers import document_of as file_of


ALICE, BOB = Authenticator(), SSHKey()

FILE = file_of(alice=ALICE, bob=BOB)


def test_the_text_is_exactly_the_proposal_for_one_person() -> None:
    """It is ASCII: a name in other letters, or written backwards, is escaped."""
    proposal = (
        '{"action":"refund-pay","amount":"450.000000","recipient":"0x70","reference":'
        '"\u202e\u0430\\n\u2028","rules":{"a":[true,1]}}'
    )
    at = datetime(2026, 11, 27, 9, 40, 1, 118200, tzinfo=UTC)
    text = Approvers.parse(FILE).text(
        "alice", Consent.BREAK_GLASS, Statement(proposal, at)
    )

    assert text == (
        "hotwallet approval 1\n"
        "deployment: tests\n"
        "approver: alice\n"
        "decision: break-glass\n"
        'action: "refund-pay"\n'
        '  "amount": "450.000000"\n'
        '  "recipient": "0x70"\n'
        '  "reference": "\\u202e\\u0430\\n\\u2028"\n'
        '  "rules": {"a": [true, 1]}\n'
        "digest: 61a40270b1cf1e989971fff9c9a3d98e9941d5b1f528eddbf663d37752111c88\n"
        "expires: 2026-11-27T09:40:01.118200+00:00\n"
    )


def test_only_people_of_the_file_have_a_text() -> None:
    statement = Statement('{"action":"resume"}', datetime.now(UTC))
    with pytest.raises(InvalidInputError, match="none of APPROVERS_FILE"):
        Approvers.parse(FILE).text("carol", Consent.APPROVE, statement)


def test_a_person_has_several_keys_and_groups() -> None:
    keys = {"yubikey": ALICE.line, "laptop": SSHKey().line}
    found = approvers_of(alice={"groups": ["finance"], "keys": keys}, bob=BOB)

    assert found.groups == {"alice": {"finance"}, "bob": set()}
    assert [each[:2] for each in found.keys.values()] == [
        ("alice", "yubikey"),
        ("alice", "laptop"),
        ("bob", "first"),
    ]


def test_without_a_page_only_ssh_keys_approve() -> None:
    people = {"alice": {"keys": {"a": SSHKey().line}}, "bob": {"keys": {"b": BOB.line}}}
    without = Approvers.parse({"deployment": "tests", "people": people})
    assert without.link("a text") is None
    assert Approvers.parse(FILE).link("a text") == f"{PAGE}#YSB0ZXh0"
    with pytest.raises(ValueError, match=r"people\.alice\.keys\.first: a WebAuthn key"):
        Approvers.parse(file_of("", alice=ALICE, bob=BOB))


def _with(**changes: Any) -> dict[str, Any]:
    return {**FILE, **changes}


def _alice(person: Any, name: str = "alice") -> dict[str, Any]:
    people = {name: person, "bob": {"keys": {"first": BOB.line}}}
    return _with(people=people)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "the file must be a table of deployment, page, people"),
    "an unknown member": (_with(pages=PAGE), "the file must be"),
    "no name": (_with(deployment=""), "deployment: must"),
    "a number": (_with(deployment=1), "deployment: must"),
    "two lines": (_with(deployment="a\nb"), "deployment: must"),
    "a page over http": (_with(page="http://approve.example/"), "page: must"),
    "a page of no host": (_with(page="https:///a"), "page: must"),
    "a page with a password": (_with(page="https://a:b@c.example/"), "page: must"),
    "a page in capitals": (_with(page="https://Approve.example/"), "page: must"),
    "a page with a port that browsers leave out": (
        _with(page="https://c.example:443/"),
        "page: must",
    ),
    "a page that is a number": (_with(page=1), "page: must"),
    "one person": (file_of(alice=ALICE), "people: at least two"),
    "no people": (_with(people=[]), "people: at least two"),
    "one person twice": (file_of(alice=ALICE, Alice=BOB), "upper and lower case"),
    "a space": (_alice({"keys": {"a": ALICE.line}}, "alice a"), "people: a name"),
    "no table": (_alice("alice"), r"people\.alice must be a table of groups, keys"),
    "no keys": (_alice({"keys": {}}), r"people\.alice\.keys: must be a table"),
    "keys without names": (_alice({"keys": [ALICE.line]}), r"alice\.keys: must be"),
    "no groups": (_alice({"keys": {"a": ALICE.line}, "groups": "a"}), "a list"),
    "a group without a name": (
        _alice({"keys": {"a": ALICE.line}, "groups": [1]}),
        "a list",
    ),
    "no key": (_alice({"keys": {"a": "a"}}), r"people\.alice\.keys\.a: must be"),
    "a number as a key": (_alice({"keys": {"a": 1}}), r"people\.alice\.keys\.a: must"),
    "the key of another": (_alice({"keys": {"a": BOB.line}}), "listed twice"),
    "one key twice": (
        file_of(alice=ALICE, bob=Authenticator(ALICE.key)),
        "listed twice",
    ),
    "one key in two forms": (
        _alice({"keys": {"a": Authenticator(BOB.key).line}}),
        "listed twice",
    ),
}


@pytest.mark.parametrize(("document", "problem"), BAD.values(), ids=BAD)
def test_another_file_is_refused(document: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Approvers.parse(document)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"people = ", "is not TOML"),
        (b"people = 1", "the file must be"),
    ],
)
def test_a_process_does_not_start_with_another_file(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "approvers.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"APPROVERS_FILE: .*{problem}"):
        load_approvers(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "approvers.toml"
    path.write_text(
        f'deployment = "tests"\npage = "{PAGE}"\n'
        f'[people.alice.keys]\nfirst = "{ALICE.line}"\n'
        f'[people.bob.keys]\nfirst = "{BOB.line}"\n'
    )

    assert load_approvers(path) == Approvers.parse(FILE)
    assert load_approvers(None) is None
