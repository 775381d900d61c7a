"""``hotwallet policy``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.sql import SQLStore
from signer.model.refund import Refund
from tests.api.commands import Run
from tests.api.networks import write_networks
from tests.support.approvals import (
    BOB,
    CAROL,
    approve_waiting,
    requested,
    rule,
    ruled,
)
from tests.support.policy import VECTORS
from tests.support.refunds import World


FORBID = '@id("no-refunds") forbid (principal, action, resource);\n'


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "10-own.cedar").write_text(text)
    return folder


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A networks file; no command here asks a node."""
    path = write_networks(tmp_path / "networks.toml")
    monkeypatch.setenv("NETWORKS_FILE", str(path))
    return path


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A service that pays on a chain in memory."""
    return World(sqlite_store)


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that writes own rules, and sets POLICY_DIR."""

    def write(text: str) -> Path:
        folder = _write(tmp_path / "policy", text)
        monkeypatch.setenv("POLICY_DIR", str(folder))
        return folder

    return write


def test_shows_all_rules(run: Run, paid: Refund, rules: Callable[[str], Path]) -> None:
    """The floor, the default with its networks, and the own rules; and the hash."""
    rules(FORBID)

    finished, document = run("policy", "show"), run("policy", "show", "--json").json

    assert finished.status == 0
    assert f"// The hash of this policy is {document['hash']}." in finished.out
    assert '// Network::"local": chain 31337' in finished.out
    names = [file["name"] for file in document["files"]]
    assert names == [
        "floor.cedar",
        "default.cedar",
        "service-wallet.cedar",
        "10-own.cedar",
    ]
    assert document["files"][-1]["text"] == FORBID
    account = run("policy", "show", "--account").out
    assert "---- account.cedar ----" in account


def test_explains_a_refund(
    run: Run, paid: Refund, rules: Callable[[str], Path]
) -> None:
    """Each transaction that was signed, with the rules that decide today."""
    finished = run("policy", "explain", paid.id)

    assert finished.status == 0
    assert f"{paid.tx_hash}  transfer: allow (refund)" in finished.out

    rules(FORBID)
    document = run("policy", "explain", paid.id, "--json").json
    (found,) = document["transactions"]
    assert (found["verdict"], found["rules"]) == ("refuse", ["no-refunds"])
    assert run("policy", "explain", "rf_0").status == 1


def test_explains_what_waits(
    run: Run, world: World, networks: Path, rules: Callable[[str], Path]
) -> None:
    """Before the signature: the verdict, and who must approve it."""
    text = rule("two", 2, group="finance")
    refund = requested(ruled(world, text))
    rules(text)

    finished = run("policy", "explain", refund.id)
    document = run("policy", "explain", refund.id, "--json").json

    expected = "needs-approval (two; approvals: 2 of finance)"
    assert f"not signed, awaiting-approval: {expected}" in finished.out
    assert document["expected"] == {
        "verdict": "needs-approval",
        "rules": ["two"],
        "approvals": 2,
        "approvers": ["finance"],
    }
    ended = world.cancel(refund)
    assert run("policy", "explain", ended.id, "--json").json["expected"] is None


def test_compares_a_new_policy(run: Run, paid: Refund, tmp_path: Path) -> None:
    """It names what the new rules would refuse, and exits with 1 then."""
    same = _write(tmp_path / "same", "// Nothing of our own.\n")
    strict = _write(tmp_path / "strict", FORBID)

    finished = run("policy", "diff", str(same))
    assert (finished.status, finished.out) == (0, "0 of 1 would be refused\n")
    finished = run("policy", "diff", str(strict), "--last", "5")
    assert finished.status == 1
    assert f"{paid.tx_hash}  transfer: refuse (no-refunds)" in finished.out
    assert "1 of 1 would be refused" in finished.out
    document = run("policy", "diff", str(strict), "--json").json
    assert document["compared"] == len(document["refused"]) == 1


def test_what_people_approved_is_not_refused(
    run: Run, world: World, networks: Path, tmp_path: Path
) -> None:
    """Unless the new rules demand another approval than the one that was given."""
    text = rule("two", 2)
    refund = requested(ruled(world, text))
    approve_waiting(world, refund, BOB, CAROL)
    world.step(refund, times=3)
    same = _write(tmp_path / "same", text)
    other = _write(tmp_path / "other", rule("two", 2, "context.max_fee_gwei >= 0"))

    assert world.stored(refund).tx_hash is not None
    finished = run("policy", "diff", str(same))
    assert (finished.status, finished.out) == (0, "0 of 1 would be refused\n")
    finished = run("policy", "diff", str(other))
    assert finished.status == 1
    assert "needs-approval (two; approvals: 2)" in finished.out


EXAMPLES = {
    "defaults": VECTORS["defaults"],
    "example": [
        {
            "name": "coin",
            "paths": ["json-rpc", "rest"],
            "tenant": "shop",
            "verdict": "refuse",
            "rule": "service-wallet",
            "transaction": {"to": VECTORS["keys"]["own"][0], "value": 1},
        },
        {
            "name": "a message at night",
            "paths": ["rest"],
            "verdict": "refuse",
            "time": "2026-11-27T01:00:00+00:00",
            "message": "hello",
        },
    ],
}


def test_tests_examples(run: Run, paid: Refund, tmp_path: Path) -> None:
    """As expected: 0; a difference: 1, with what was expected and found."""
    file = tmp_path / "examples.json"
    file.write_text(json.dumps(EXAMPLES))
    finished = run("policy", "test", str(file))
    assert (finished.status, finished.out) == (0, "3 of 3 as expected\n")

    wrong = {**EXAMPLES["example"][0], "verdict": "allow"}
    file.write_text(json.dumps({**EXAMPLES, "example": [wrong]}))
    finished = run("policy", "test", str(file))
    assert finished.status == 1
    expected, found = "allow (service-wallet)", "refuse (service-wallet)"
    assert f"coin, rest: expected {expected}, found {found}" in finished.out
    document = run("policy", "test", str(file), "--json").json
    assert [each["ok"] for each in document["examples"]] == [False, False]


def test_tests_the_policy_of_accounts(run: Run, paid: Refund, tmp_path: Path) -> None:
    """``--account`` tests the default of the library."""
    file = tmp_path / "examples.toml"
    file.write_text(
        '[[example]]\nname = "text"\npaths = ["account"]\nverdict = "allow"\n'
        'message = "hello"\n'
    )

    assert run("policy", "test", "--account", str(file)).status == 0
    assert run("policy", "test", str(file)).status == 1


def test_malformed_examples_are_refused(run: Run, paid: Refund, tmp_path: Path) -> None:
    """``tests/unit/signer/policy`` has each mistake."""
    file = tmp_path / "examples.toml"
    file.write_text("[")

    finished = run("policy", "test", str(file))

    assert finished.status == 1
    assert "the examples cannot be read: Invalid" in finished.err


def test_a_wrong_rule_stops_the_start(
    run: Run, paid: Refund, rules: Callable[[str], Path]
) -> None:
    """78, with the guard's code, the file and the line."""
    rules("// first\n\npermit (principal, action, resource);\n")

    for command in (("policy", "show"), ("guard",)):
        finished = run(*command)
        assert finished.status == 78
        assert "policy-invalid" in finished.err + finished.out
        assert "10-own.cedar, line 3: the permit has no name" in (
            finished.err + finished.out
        )
