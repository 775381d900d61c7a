"""
What an action answers: a document for programs, and lines for people.

The API sends the document and the command prints either, which ``test_actions`` shows
for every action; so each answer is tested once.
"""

from collections.abc import Callable
from typing import Any

import pytest

from api.actions.action import Answer
from api.actions.catalogue import FORMS
from signer.chain.chain import Chain
from signer.errors import HotWalletError
from signer.model.audit_record import Actor
from tests.api.actions.cases import CASES
from tests.api.actions.surfaces import Surfaces
from tests.api.administrators import post_as_admin
from tests.extras.console.worlds import CAROL, SHOP, World
from tests.fixtures.ledger import forge, forged_end
from tests.support.refunds import CUSTOMER, NETWORK
from tests.support.ring import ELSEWHERE, NEW, OLD, OTHER


NAMED = {each.name: each for each in FORMS}

ALICE = Actor("token:alice", "req-alice", "token-alice", reason="why")

Take = Callable[..., Answer]


@pytest.fixture
def world(world: World) -> World:
    """A service where one administrator is enough."""
    world.container.approvals.required = False
    return world


@pytest.fixture
def take(world: World) -> Take:
    """Return a function that takes an action for alice, or says what it would do."""

    def run(name: str, *, dry_run: bool = False, **texts: str) -> Answer:
        action = NAMED[name]
        empty = dict.fromkeys((each.name for each in action.form), "")
        values = action.values({**empty, **texts})
        does = action.rehearse if dry_run else action.make
        return does(world.container, values, ALICE)

    return run


# The first line of a dry run, of the action, and of the same action again.
LINES: dict[str, tuple[str, str, str]] = {
    "stop": ("", "TUSD on local: stopped", "TUSD on local: already stopped"),
    "resume": (
        "stopped since: 2026-11-24 12:00:00 UTC",
        "TUSD on local: resumed",
        "TUSD on local: not stopped",
    ),
    "block-tenant": ("shop: would-block", "shop: blocked", "shop: already-blocked"),
    "unblock-tenant": ("shop: would-unblock", "shop: unblocked", "shop: not-blocked"),
    "repair-nonces": (
        "local {old}: next nonce 0, the chain's 0",
        "local {old}: next nonce 0, the chain's 0",
        "local {old}: next nonce 0, the chain's 0",
    ),
    "abandon-nonces": (
        "local: would-abandon",
        "local: abandoned",
        "local: not-waiting",
    ),
    "rotate-key": (
        "would-rotate: 22222222... {new}",
        "rotated: 22222222... {new}",
        "rotated: 22222222... {new}",
    ),
    "fail-over": (
        "would-relocate: 44444444... {old}",
        "relocated: 44444444... {old}",
        "relocated: 44444444... {old}",
    ),
    "revoke-key": ("would be revoked: {old}", "blocked: {old}", "blocked: {old}"),
    "reinstate-key": (
        "would be reinstated: {old}",
        "draining: {old}",
        "draining: {old}",
    ),
    "replay-event": ("tenant: shop", "{event_id}: due now", "{event_id}: due now"),
    "replay-dead": ("1 delivery given up.", "shop: 1 due now", "shop: 0 due now"),
    "cancel-refund": (
        "amount: 12.500000 TUSD",
        "{refund_id}: a worker cancels it",
        "{refund_id}: a worker cancels it",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_an_action_can_be_repeated(world: World, take: Take, name: str) -> None:
    """O2, O8: who lost the answer may repeat it; a dry run changes nothing."""
    texts = CASES[name].prepare(world)
    before = CASES[name].state(world)
    answers = [take(name, dry_run=True, **texts)]
    unchanged = CASES[name].state(world)
    answers += [take(name, **texts), take(name, **texts)]
    names = {"old": world.old.address, "new": world.system.address(NEW), **texts}

    assert unchanged == before
    assert tuple("".join(each.lines[:1]) for each in answers) == tuple(
        line.format(**names) for line in LINES[name]
    )
    assert [each.ok for each in answers[1:]] == [True, True]
    assert answers[1].is_pending == (name == "cancel-refund")


def test_a_rotation(world: World, take: Take) -> None:
    """It has eight characters of both ids, both addresses, and what to do next."""
    new, old = world.system.address(NEW), world.old.address
    answer, again = take("rotate-key", key_id=NEW), take("rotate-key", key_id=NEW)
    active = world.store.active_key()
    (holding,) = answer.document.pop("holdings")

    assert answer.document == {
        "status": "rotated",
        "keyId": "22222222...",
        "address": new,
        "epoch": 2,
        "previousKeyId": "11111111...",
        "previousAddress": old,
        "strandedRefunds": [],
        "warnings": [
            "the address has changed: inform everyone who funds or monitors the wallet"
        ],
    }
    assert (holding["network"], holding["nonce"], holding["error"]) == (
        "local",
        0,
        None,
    )
    assert answer.lines[1] == f"  before: 11111111... {old}"
    assert answer.lines[2].startswith("  local: ")
    assert answer.lines[3].startswith("  warning: the address has changed")
    assert again.lines[-1] == "  warning: the key was already active"
    assert active is not None
    assert (active.key_id, active.requested_by) == (NEW, "token:alice")


def test_a_rotation_that_waits_for_funds(world: World, take: Take) -> None:
    """O3: 202 and status 1 until the new address has them, unless it need not."""
    settings = world.container.settings
    world.container.settings = settings.model_copy(
        update={"rotation_needs_funds": True}
    )
    world.node.balance_left = 0
    planned = take("rotate-key", dry_run=True, key_id=NEW)
    waiting = take("rotate-key", key_id=NEW)
    listed = world.store.keys()[-1]
    compromised = {"compromised": "yes", "active_address": world.old.address.lower()}
    revoked = take("rotate-key", key_id=NEW, without_funds="yes", **compromised)

    assert (planned.document["status"], planned.ok) == ("would-await-funds", False)
    assert (waiting.document["status"], waiting.ok) == ("awaiting-funds", False)
    assert (waiting.is_pending, waiting.problem) == (True, "awaiting-funds")
    assert waiting.document["epoch"] is None
    assert (listed.state, listed.blocked_by) == ("pending", "awaiting-funds")
    assert (revoked.document["status"], revoked.is_pending) == ("rotated", False)
    assert world.system.states == {NEW: "active", OLD: "blocked"}


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_key_that_may_not_pay_from_the_vault(
    world: World, take: Take, *, dry_run: bool
) -> None:
    """T12: the problem has the network, and the command for the new key."""
    vault = NETWORK.model_copy(update={"vault": CUSTOMER})
    world.container.chains = {"local": Chain(vault, world.node)}
    with pytest.raises(HotWalletError) as refused:
        take("rotate-key", key_id=NEW, dry_run=dry_run)

    assert refused.value.code == "vault-operator-missing"
    assert f"the vault of local ({CUSTOMER})" in str(refused.value)
    assert str(refused.value).endswith(
        "Run: hotwallet vault propose --network local --add-operator"
        f" {world.system.address(NEW)}"
    )
    assert world.system.states[OLD] == "active"


def test_a_failover(world: World, take: Take) -> None:
    """The address stays; it has eight characters of both ids."""
    answer = take("fail-over", key_id=ELSEWHERE)
    again = take("fail-over", key_id=ELSEWHERE)
    warning = "roles with permission for the old key id can still sign with it"

    assert answer.document == {
        "status": "relocated",
        "keyId": "44444444...",
        "previousKeyId": "11111111...",
        "address": world.old.address,
        "state": "active",
        "warnings": [warning],
    }
    assert answer.lines[1:] == [
        "  before: 11111111...; the key is active",
        f"  warning: {warning}",
    ]
    assert again.document["warnings"] == ["the ring already has the key under this id"]


def test_a_revoked_key(world: World, take: Take) -> None:
    """O8: what it has signed is listed; it can be reinstated, and drains again."""
    address = world.replaced().address
    revoked = take("revoke-key", address=address.lower())
    reinstated = take("reinstate-key", address=address, reason="a mistake")

    assert revoked.document["keyId"] == "11111111..."
    assert revoked.document["state"] == "blocked"
    assert revoked.document["reinstatableUntil"] == "2026-11-25T12:00:00.000000Z"
    assert (revoked.document["strandedRefunds"], revoked.document["nextSteps"]) == (
        [],
        [],
    )
    assert (reinstated.document["state"], reinstated.document["openRefunds"]) == (
        "draining",
        [],
    )
    assert reinstated.document["reinstatableUntil"] is None


def test_a_sweep(world: World, take: Take) -> None:
    """Tokens go first; the status of what moves is shown, and 1 while coin waits."""
    address = world.replaced().address
    planned = take("sweep-key", dry_run=True, address=address.lower())
    moving = take("sweep-key", address=address)
    again = take("sweep-key", dry_run=True, address=address)
    tokens, gas = moving.document

    assert [each.ok for each in (planned, moving, again)] == [False] * 3
    assert planned.lines[0].endswith(" TUSD: would be moved")
    assert planned.lines[1].endswith(
        " coin: waits for its tokens, which need it for gas"
    )
    assert moving.lines[0].endswith(f" TUSD: queued as {tokens['refund']}")
    assert again.lines[0] == moving.lines[0]
    assert (tokens["network"], tokens["token"], tokens["waitsFor"]) == (
        "local",
        "TUSD",
        None,
    )
    assert (gas["token"], gas["refund"]) == ("coin", None)
    assert gas["waitsFor"]


def test_a_stop(take: Take) -> None:
    """R27: who and why are listed; each stop is ended by itself."""
    stopped = take("stop", network="local")
    take("stop")
    remaining = take("resume")
    (stop,) = stopped.document.pop("stops")

    assert stopped.document == {"status": "stopped", "network": "local", "token": None}
    assert stop == {
        "network": "local",
        "chainId": 31337,
        "token": None,
        "at": "2026-11-24T12:00:00.000000Z",
        "reason": "why",
        "requestedBy": "token:alice",
        "alert": None,
        "evidence": None,
        "authentic": True,
    }
    assert remaining.lines[0] == "everything: resumed"
    assert remaining.lines[1].startswith(
        "local: stopped at 2026-11-24T12:00:00.000000Z"
    )


def test_a_stop_of_a_chain_that_no_network_has(world: World, take: Take) -> None:
    """Only if it is stopped already: another program may have inserted the row."""
    at = world.clock().isoformat(timespec="microseconds")
    forge(
        world.store,
        "INSERT INTO holds (name, at, reason, requested_by, version)"
        f" VALUES ('network 999999', '{at}', 'all is well', 'cli:bob', 0)",
    )
    chain = {"network": "chain:999999"}
    with pytest.raises(HotWalletError, match="replaces the row") as refused:
        take("resume", **chain)
    stopped, resumed = take("stop", **chain), take("resume", **chain)

    assert refused.value.code == "row-not-authentic"
    assert "`hotwallet stop --chain-id 999999`" in str(refused.value)
    assert stopped.lines[0] == "chain 999999: stopped"
    assert resumed.lines[0] == "chain 999999: resumed"


def test_a_changed_block(world: World, take: Take) -> None:
    """``block`` replaces the row, and ``unblock`` ends it."""
    take("block-tenant", tenant=SHOP)
    forged_end(world.store)
    planned = take("block-tenant", dry_run=True, tenant=SHOP)
    for dry_run in (True, False):
        with pytest.raises(HotWalletError) as refused:
            take("unblock-tenant", dry_run=dry_run, tenant=SHOP)
        assert refused.value.code == "row-not-authentic"
    done = [
        take(name, tenant=SHOP).lines for name in ("block-tenant", "unblock-tenant")
    ]

    assert planned.lines == ["shop: would-block"]
    assert done == [["shop: blocked"], ["shop: unblocked"]]


def test_a_repair(world: World, take: Take) -> None:
    """R23: a foreign transaction is shown, and accepted once it is final."""
    empty = take("repair-nonces", dry_run=True)
    address = world.old.address
    world.paused(address)
    world.node.mine_foreign(address)
    unseen = take("repair-nonces", dry_run=True)
    world.container.holds.stop(None, CAROL.because("odd"))
    early = take("repair-nonces")
    world.node.mine_empty(20)
    done = take("repair-nonces", network="local")
    (wallet,) = done.document

    assert empty.lines == ["no wallet has paid anything yet"]
    assert (unseen.ok, early.ok, done.ok) == (False, False, True)
    assert unseen.lines[1:3] == [
        "  paused by chain-ahead",
        "  not looked at yet: 1 of the chain's transactions",
    ]
    assert unseen.lines[3].endswith("wait for a worker, then run the command again")
    assert early.lines[1].startswith("  signing was stopped at ")
    assert "not final yet" in early.lines[-1]
    assert done.lines[-1] == "  resumed"
    assert (wallet["network"], wallet["address"]) == ("local", address)
    assert (wallet["paused_by"], wallet["resumed"], wallet["foreign"]) == (
        None,
        True,
        [],
    )


def test_a_decision(world: World, take: Take) -> None:
    """It shows exactly what would be done, who asked for it, and who decided."""
    world.container.approvals.required = True
    digest = world.proposed()
    approved = take("approve", digest=digest[:16], reason="checked")
    rejected = take("reject", digest=digest, reason="checked")

    assert approved.document == {
        "digest": digest,
        "state": "approved",
        "proposal": {
            "action": "signing-resume",
            "chain_id": "0",
            "stopped_at": "2026-11-24T12:00:00+00:00",
            "stopped_by": "token:carol",
            "stop_reason": "a stop",
            "version": 0,
        },
        "reason": approved.document["reason"],
        "requestedBy": "token:carol",
        "requestedAt": "2026-11-24T12:00:00.000000Z",
        "expiresAt": "2026-11-25T12:00:00.000000Z",
        "decidedBy": "token:alice",
        "decidedAt": "2026-11-24T12:00:00.000000Z",
        "alone": False,
    }
    assert approved.lines[0] == f"{digest[:16]} approved: signing-resume"
    assert approved.lines[-2].startswith('  requested by "token:carol" at 2026-11-24T')
    assert approved.lines[-1] == '  approved by "token:alice"'
    assert rejected.lines[-1] == '  rejected by "token:alice"'


@pytest.mark.parametrize("name", ["rotate-key", "fail-over"])
def test_a_key_that_does_not_sign(world: World, surfaces: Surfaces, name: str) -> None:
    """The code of the device is shown; only a failover to a wrong id is an alert."""
    texts = {**CASES[name].prepare(world), "key_id": "no-key", "reason": "why"}
    answer = surfaces.answer(world, NAMED[name], texts)

    assert answer.json == {
        "type": "/problems/new-key-unhealthy",
        "title": "New key unhealthy",
        "status": 503,
        "code": "new-key-unhealthy",
        "detail": "The old key goes on serving.",
        "request_id": answer.headers["x-request-id"],
        "error": "new key unhealthy",
        "message": answer.json["message"],
        "reason": "key-not-found",
    }
    assert answer.headers["retry-after"]
    alerts = {} if name == "rotate-key" else {"rotation-refused": 1}
    assert world.store.alert_counts() == alerts


MALFORMED: dict[str, tuple[Any, str | None]] = {
    "missing": ({}, "newKeyId"),
    "empty": ({"newKeyId": ""}, "newKeyId"),
    "blank": ({"newKeyId": "  "}, "newKeyId"),
    "too long": ({"newKeyId": "a" * 513}, "newKeyId"),
    "text for a boolean": ({"newKeyId": NEW, "dryRun": "true"}, "dryRun"),
    "no address": ({"newKeyId": NEW, "activeAddress": "0x12"}, "activeAddress"),
    "unnamed": ({"newKeyId": NEW, "compromised": True}, "activeAddress"),
    "no object": ([NEW], None),
    "no JSON": ("newKeyId", None),
    "twice": (f'{{"newKeyId": "{NEW}", "newKeyId": "{OTHER}"}}', "newKeyId"),
}


@pytest.mark.parametrize(("body", "field"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body(world: World, body: Any, field: str | None) -> None:
    """
    400 with the name of the field; the answer does not quote the body.

    ``test_every_field`` sends a wrong type and an unknown member of every operation.
    """
    path, now = "/v1/admin/kms/rotate", world.clock()
    answer = post_as_admin(world.client, path, body, now=now)

    assert answer.status_code == 400
    assert answer.json["code"] == "invalid-input"
    assert answer.json.get("field") == field
    assert NEW not in answer.text
    assert world.system.states == {OLD: "active"}


def test_an_unknown_member_is_answered_with_the_known_ones(world: World) -> None:
    """The answer does not repeat the sent name, which may be a misplaced id."""
    path, body = "/v1/admin/kms/rotate", {"newKeyId": NEW, NEW: True}
    answer = post_as_admin(world.client, path, body, now=world.clock())

    assert answer.json["detail"] == (
        "has an unknown field; this request takes"
        " newKeyId, compromised, activeAddress, withoutFunds, dryRun, reason"
    )
    assert NEW not in answer.text


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("rotate-key", {"key_id": "  "}, "NEW_KEY_ID must name"),
        ("rotate-key", {"key_id": NEW, "active_address": "0x12"}, "--from must be an"),
        ("rotate-key", {"key_id": NEW, "compromised": "yes"}, "--from is required"),
        ("revoke-key", {"address": "0x12"}, "ADDRESS must be an address"),
    ],
)
def test_a_command_names_what_is_malformed_as_its_help_does(
    world: World, surfaces: Surfaces, name: str, texts: dict[str, str], message: str
) -> None:
    action = NAMED[name]
    empty = dict.fromkeys((each.name for each in action.form), "")
    finished = surfaces.command(world, action, {**empty, **texts, "reason": "why"})

    assert (finished.status, finished.out) == (1, "")
    assert f"error: invalid-input: {message}" in finished.err
