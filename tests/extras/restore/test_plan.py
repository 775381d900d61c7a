"""What a restored ledger has lost, what it needs, and when no restore is possible."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from api.extras.restore.plan import KeyChange, LostChanges, rebuild
from api.extras.restore.planner import MOST_FILLERS, find_missing_changes
from signer.audit.actions import AuditAction
from signer.config.tenants import TenantRegistry
from signer.model.audit_record import Record
from signer.model.key import Key, KeyState
from signer.model.refund import Refund
from signer.model.wallet import Pause
from signer.ports.ledger import Ledger
from signer.redact import REDACTED, key_prefix
from signer.refunds.transaction_signer import build_purpose, describe_acceptance
from tests.fixtures.ledger import bound
from tests.support.keys import key_at
from tests.support.refunds import ACTOR, CUSTOMER, REQUEST, SECOND, THIRD, altered_chain
from tests.support.restores import Restored, filling, plan_of, requested


def _lose(world: Restored, backup: Ledger) -> None:
    """Replace the ledger by its *backup*, when the chain is final."""
    world.mine_deep()
    world.store = backup
    world.ring.active()


def _lost(world: Restored, *, steps: int = 0) -> Refund:
    """Return a refund that took *steps*, and that the ledger has lost."""
    copy = world.backup()
    refund = requested(world, "lost")
    if steps:
        world.step(refund, times=steps)
    _lose(world, copy)
    return refund


def _stated(world: Restored, mark: int) -> dict[tuple[str, str], int]:
    return {("local", world.signer.address): mark}


def test_a_lost_refund_gets_its_row_and_its_nonce(world: Restored) -> None:
    """The wallet is paused until its nonce is final."""
    world.step(requested(world, "one"), times=3)
    world.settle()
    refund = _lost(world, steps=2)

    plan = plan_of(world, world.log)

    (wallet,) = plan.wallets
    (planned,) = plan.refunds
    assert (wallet.wallet, wallet.counted, wallet.mined) == (world.wallet, 1, 1)
    assert (wallet.high_water, wallet.fillers, wallet.is_stated) == (2, [], False)
    assert planned.record is not None
    assert planned.refund.id == refund.id
    assert (planned.sender, planned.nonce) == (world.signer.address, 1)
    assert plan.facts() == {
        "wallets": [
            {
                "network": "local",
                "address": world.signer.address,
                "high_water": 2,
                "stated": False,
            }
        ],
        "created": 1,
        "nonces": 1,
        "cancelled": 0,
        "key_changes": 0,
    }
    assert not plan.problems


def test_a_lost_ledger_opens_its_wallet(
    world: Restored, empty: Callable[[], Ledger]
) -> None:
    """It does not have the wallet, and knows no nonce."""
    world.step(requested(world, "one"), times=3)
    world.settle()
    world.step(requested(world, "two"), times=1)
    _lose(world, empty())

    plan = plan_of(world, world.log)

    (wallet,) = plan.wallets
    assert wallet.wallet.version == 0
    assert (wallet.wallet.first_nonce, wallet.mined, wallet.high_water) == (0, 1, 2)
    assert [each.nonce for each in plan.refunds] == [0, 1]
    assert wallet.fillers == []


@pytest.mark.parametrize("is_known", [True, False], ids=["wallet", "lost"])
def test_the_last_thousand_nonces(world: Restored, is_known: bool) -> None:
    """A lost wallet starts there; mined ones are not filled, however many they are."""
    world.ring.active()
    if is_known:
        world.paid()
    world.client = altered_chain(
        world.chain,
        pending_count=lambda address: 5_000,
        transaction_count=lambda address, block=None: 4_998,
    )

    (wallet,) = plan_of(world, world.log if not is_known else ()).wallets

    assert is_known or wallet.wallet.first_nonce == 4_000
    assert wallet.fillers == [4_998, 4_999]


def test_a_ledger_without_a_key(world: Restored) -> None:
    """The first key is in no log."""
    plan = plan_of(world, ())

    assert len(plan.problems) == 1
    assert "`hotwallet guard`" in plan.problems[0]


def test_without_a_log_each_mark_must_be_stated(world: Restored) -> None:
    """The problem names the lowest mark that ledger, chain and log permit."""
    copy = world.backup()
    world.paid()
    name = f"local {world.signer.address}: "

    missing = plan_of(world, (), has_log=False)
    too_low = plan_of(world, (), stated=_stated(world, 0), has_log=False)
    right = plan_of(world, (), stated=_stated(world, 2), has_log=False)
    world.store = copy
    world.ring.active()
    below_log = plan_of(world, world.log, stated=_stated(world, 0))

    option = f"--high-water local:{world.signer.address}=NONCE"
    assert missing.problems == [
        f"{name}state how many transactions it has signed, 1 or more: {option}"
    ]
    lowest = [f"{name}its high-water mark must be 1 or more"]
    assert too_low.problems == below_log.problems == lowest
    (wallet,) = right.wallets
    assert (wallet.high_water, wallet.fillers, wallet.is_stated) == (2, [1], True)


def test_a_stated_mark_of_an_address_that_the_ring_lacks(world: Restored) -> None:
    """A mistyped address would otherwise leave the nonces of the wallet unfilled."""
    world.paid()
    stated = {("local", THIRD.address): 7, **_stated(world, 1)}

    (problem,) = plan_of(world, (), stated=stated).problems

    assert problem.startswith(f"local {THIRD.address}: the ring has no such key")
    assert "changes nothing" in problem


@pytest.mark.parametrize("is_known", [True, False], ids=["wallet", "lost"])
def test_a_mark_that_needs_too_many_fillers(world: Restored, is_known: bool) -> None:
    """A wrong digit costs no gas; at most a thousand nonces are filled."""
    count = 0
    world.ring.active()
    if is_known:
        world.paid()
        count = 1
    most = plan_of(world, (), stated=_stated(world, MOST_FILLERS + count))

    many = plan_of(world, (), stated=_stated(world, 10**15))

    (wallet,) = most.wallets
    assert not most.problems
    assert len(wallet.fillers) == MOST_FILLERS
    assert len(many.problems) == 1
    assert "more than 1000 no-ops" in many.problems[0]


def test_transactions_that_are_not_final(world: Restored) -> None:
    """Until then, a reorganisation could make their nonces free."""
    world.paid()
    world.chain.mine_foreign(world.signer.address)

    plan = plan_of(world, ())
    world.chain.mine_empty(2)

    assert [each.split(": ")[1] for each in plan.problems] == [
        "1 of its transactions are not final yet"
    ]
    assert not plan_of(world, ()).problems


def test_a_key_that_the_ring_lacks(world: Restored) -> None:
    """The log has its signatures, and not its rotation."""
    refund = world.step(requested(world, "one"))
    record = SECOND.intent(build_purpose(refund, nonce=4))

    plan = plan_of(world, [record])

    assert [SECOND.address in each for each in plan.problems] == [True]
    assert "`hotwallet keys rotate`" in plan.problems[0]


def _rotation(address: str, previous: str, *, compromised: bool = False) -> KeyChange:
    return KeyChange(
        AuditAction.KEY_ROTATE,
        address,
        key_prefix(address.lower()),
        previous,
        compromised=compromised,
    )


def test_a_revoked_key_gets_no_fillers(world: Restored) -> None:
    """Its key signs nothing; the wallet stays paused until its nonces are mined."""
    _lost(world, steps=1)
    world.rotate(block=True)

    (wallet,) = plan_of(world, world.log).wallets
    stated = plan_of(world, (), stated=_stated(world, 2), has_log=False).wallets

    assert (wallet.high_water, wallet.fillers, wallet.is_revoked) == (1, (), True)
    assert [(each.high_water, each.fillers) for each in stated] == [(2, ())]


def test_a_gap_of_a_revoked_key_that_is_mined(world: Restored) -> None:
    """Something that the ledger does not know has used the nonce."""
    world.step(world.accepted())
    world.broadcast()
    world.rotate(block=True)
    before = plan_of(world, ())
    unlogged = plan_of(world, (), stated=_stated(world, 2), has_log=False)
    world.chain.mine_foreign(world.signer.address)
    world.mine_deep()

    (wallet,) = plan_of(world, ()).wallets

    assert before.wallets == []
    assert [each.has_gaps for each in unlogged.wallets] == [True]
    assert (wallet.has_gaps, wallet.fillers) == (True, ())


def test_a_paused_wallet_without_a_mark_needs_one(world: Restored) -> None:
    """Also if the ledger knows every nonce."""
    world.paid()
    world.store.pause(world.wallet, Pause.RESTORED, world.clock())

    (wallet,) = plan_of(world, ()).wallets
    world.store.pause(world.wallet, Pause.RESTORED, world.clock(), 1)

    assert wallet.high_water == 1
    assert plan_of(world, ()).is_empty


class _Signing(TenantRegistry):
    def request_keys(self, name: str) -> dict[str, bytes]:  # type: ignore[override]
        return {"key": b""}


@pytest.mark.parametrize("change", ["tenant signs", "network is gone"])
def test_refunds_that_cannot_be_created_again(world: Restored, change: str) -> None:
    """Only the gateway can repeat a signed request; the rest is restored."""
    refund = _lost(world)
    fields = world.log[-1].fields
    if change == "tenant signs":
        world.tenants = _Signing()
    else:
        fields["details"]["network"] = "gone"

    plan = plan_of(world, [Record.of(fields, world.clock())])

    assert plan.incomplete == [refund.id]
    assert plan.refunds == []


def test_a_nonce_of_a_refund_that_the_log_lacks(world: Restored) -> None:
    """A filler gets it, and the gateway requests the refund again."""
    refund = _lost(world, steps=1)

    plan = plan_of(
        world, [each for each in world.log if "refund-accept" not in each.body]
    )

    assert plan.incomplete == [refund.id]
    assert [each.fillers for each in plan.wallets] == [[0]]


@pytest.mark.parametrize(
    ("reference", "key", "lost"), [("lost", "other", 0), ("other", "key of lost", 1)]
)
def test_a_refund_whose_key_or_reference_is_in_use(
    world: Restored, reference: str, key: str, lost: int
) -> None:
    """Its nonce gets a filler; a payment is found by the reference's memo."""
    refund = _lost(world, steps=1)
    records = list(world.log)
    world.service.submit(
        tenant="gateway",
        idempotency_key=key,
        request=replace(REQUEST, reference=reference),
        actor=ACTOR,
    )

    plan = plan_of(world, records)

    assert plan.refunds == []
    assert plan.incomplete == [refund.id] * lost
    assert [each.fillers for each in plan.wallets] == [[0]]


def test_a_refused_sweep_is_not_repeated(world: Restored) -> None:
    """It moved nothing."""
    copy = world.backup()
    refund = requested(world, "sweep")
    fields = world.log[-1].fields
    fields["event"] = "key-sweep-succeeded"
    fields["details"] = describe_acceptance(replace(refund, **bound()))
    accepted = Record.of(fields, world.clock())
    refused = Record.of(
        {"event": "refund-refuse-succeeded", "details": {"refund_id": refund.id}},
        world.clock(),
    )
    world.store = copy
    world.ring.active()

    assert len(plan_of(world, [accepted]).refunds) == 1
    assert plan_of(world, [accepted, refused]).refunds == []


A, B, C = "0xA", SECOND.address, THIRD.address


def _ring(*keys: tuple[str, KeyState]) -> list[Key]:
    """Return a ring; the first key was activated last."""
    return [
        replace(key_at(address), state=state, epoch=len(keys) - number)
        for number, (address, state) in enumerate(keys)
    ]


ACTIVE, DRAINING, RETIRED, BLOCKED = (
    KeyState.ACTIVE,
    KeyState.DRAINING,
    KeyState.RETIRED,
    KeyState.BLOCKED,
)

THERE, ONWARD, BACK = _rotation(B, A), _rotation(C, B), _rotation(A, B)

STOLEN = _rotation(B, A, compromised=True)

REVOKED = KeyChange(AuditAction.KEY_REVOKE, A, key_prefix(A))

MOVED = KeyChange(AuditAction.KEY_FAILOVER, B, "replica")


@pytest.mark.parametrize(
    ("changes", "ring", "missing"),
    [
        ([THERE], [(A, ACTIVE)], [THERE]),
        ([THERE], [(B, ACTIVE), (A, DRAINING)], []),
        ([THERE, ONWARD], [(A, ACTIVE)], [THERE, ONWARD]),
        ([THERE, ONWARD], [(B, ACTIVE), (A, DRAINING)], [ONWARD]),
        ([THERE, ONWARD], [(C, ACTIVE), (B, DRAINING), (A, DRAINING)], []),
        ([THERE, BACK], [(A, ACTIVE)], [THERE, BACK]),
        ([THERE, BACK], [(B, ACTIVE), (A, DRAINING)], [BACK]),
        ([THERE, BACK], [(A, ACTIVE), (B, DRAINING)], []),
        ([THERE, BACK, THERE], [(B, ACTIVE), (A, DRAINING)], []),
        ([STOLEN], [(A, ACTIVE), (B, RETIRED)], [STOLEN]),
        ([STOLEN], [(B, ACTIVE), (A, BLOCKED)], []),
        ([STOLEN, ONWARD], [(B, ACTIVE), (A, BLOCKED)], [ONWARD]),
        ([THERE, REVOKED], [(A, ACTIVE)], [THERE, REVOKED]),
        ([THERE, REVOKED], [(B, ACTIVE), (A, DRAINING)], [REVOKED]),
        ([THERE, REVOKED, ONWARD], [(B, ACTIVE), (A, BLOCKED)], [ONWARD]),
        ([MOVED], [(B, ACTIVE)], [MOVED]),
        ([THERE, MOVED], [(A, ACTIVE)], [THERE, MOVED]),
    ],
)
def test_key_changes_that_are_missing(
    changes: list[KeyChange], ring: list[tuple[str, KeyState]], missing: list[KeyChange]
) -> None:
    """An interrupted restore continues after the last change that it repeated."""
    assert find_missing_changes(changes, _ring(*ring)) == missing


def test_the_last_failover_counts() -> None:
    """A key may have been moved twice."""
    back = KeyChange(AuditAction.KEY_FAILOVER, B, key_prefix(B.lower()))
    (key,) = _ring((B, ACTIVE))

    assert find_missing_changes([MOVED, back], [key]) == []
    assert find_missing_changes([back, MOVED], [key]) == [back, MOVED]


# What the records of a log say that a restored ledger has lost.

AT = datetime(2026, 1, 2, tzinfo=UTC)

_HELD = {"network": "local", "token": "USDC", "contract": "0xab"}


def _record(event: str, details: dict[str, Any] | None = None, **fields: Any) -> Record:
    return Record.of({"event": event, "details": details, **fields}, AT)


def _signing(refund_id: str | None, **details: Any) -> Record:
    return _record(
        "digest-sign-requested", details, refund_id=refund_id, address=CUSTOMER
    )


def _changed(record: Record, **details: Any) -> Record:
    fields = record.fields
    fields["details"] |= details
    return Record.of(fields, AT)


def test_the_line_of_a_reservation_has_the_nonce(world: Restored) -> None:
    """So a process that dies after it leaves no nonce that is not known."""
    world.step(requested(world, "lost"))

    assert LostChanges(world.log).high_water((31337, world.signer.address)) == 1


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
def test_the_nonce_of_the_key_that_may_sign_counts(world: Restored, order: int) -> None:
    """A revocation moved the refund, for any clock that a host may have."""
    refund = world.step(requested(world, "lost"))
    world.rotate(block=True)
    world.step(world.stored(refund))

    lost = LostChanges(world.log[::order])

    (known,) = lost.refunds.values()
    first, second = ((refund.chain_id, s.address) for s in (world.signer, SECOND))
    assert known.find_wallet({world.signer.address}) == second
    last = second if order > 0 else first
    assert known.find_wallet({world.signer.address, SECOND.address}) == last
    assert lost.addresses() == {world.signer.address, SECOND.address}


@pytest.mark.parametrize(
    "record",
    [
        _signing(None, chain_id=1, nonce=1),
        _signing("rf_1", nonce=1),
        _signing("rf_1", chain_id=1),
        _record("digest-sign-succeeded"),
        _record("configuration-loaded", {}),
        _record("key-rotate-requested", {"key": "1"}),
        _record("signing-stop-succeeded", {"chain_id": "7", "reason": "theft"}),
    ],
    ids=["message", "no chain", "old", "self-test", "other", "attempt", "no network"],
)
def test_records_without_a_lost_change(record: Record) -> None:
    """A message has no nonce, and an earlier release logged it later."""
    lost = LostChanges([record])

    found = lost.refunds, lost.stops, lost.key_changes, lost.blocked_tenants
    assert not any((*found, lost.addresses()))


@pytest.mark.parametrize("refund_id", [None, "rf_" + "0" * 32], ids=["new", "old"])
def test_a_filler_is_known_as_one(world: Restored, refund_id: str | None) -> None:
    """An earlier restore made it, perhaps of a release in which it was a refund."""
    assert world.audit is not None
    world.step(requested(world, "first"))
    record = world.signer.intent(replace(filling(1), refund_id=refund_id))
    lost = LostChanges([record])

    assert not lost.refunds
    assert lost.high_water((31337, world.signer.address)) == 2
    plan = plan_of(world, [record])
    assert not plan.incomplete
    assert [each.fillers for each in plan.wallets] == [[1]]


_ROTATED = {"key": "2", "key_address": "b", "previous_key_address": "a"}

_STOLEN = "key-rotate-succeeded", {**_ROTATED, "compromised": True}

_REVOKED = "key-revoke-succeeded", {"key": "3", "key_address": "c"}


@pytest.mark.parametrize(
    ("records", "changes"),
    [
        (
            [
                _STOLEN,
                _REVOKED,
                ("key-failover-succeeded", {"key": "3", "key_address": "b"}),
            ],
            [
                KeyChange(AuditAction.KEY_ROTATE, "b", "2", "a", compromised=True),
                KeyChange(AuditAction.KEY_REVOKE, "c", "3"),
                KeyChange(AuditAction.KEY_FAILOVER, "b", "3"),
            ],
        ),
        (
            [
                _STOLEN,
                _REVOKED,
                ("key-revoke-succeeded", {"key": "4", "key_address": "d"}),
                ("key-reinstate-succeeded", {"key": "1", "key_address": "a"}),
                ("key-reinstate-succeeded", {"key": "3", "key_address": "c"}),
            ],
            [
                KeyChange(AuditAction.KEY_ROTATE, "b", "2", "a"),
                KeyChange(AuditAction.KEY_REVOKE, "d", "4"),
            ],
        ),
    ],
    ids=["in their order", "a revocation that was undone"],
)
def test_key_changes(
    records: Sequence[tuple[str, dict[str, Any]]], changes: Sequence[KeyChange]
) -> None:
    """Each with what is needed to repeat it."""
    written = [_record(*each) for each in records]

    lost = LostChanges(written)

    assert lost.key_changes == changes
    assert lost.administrative == written


def test_stops_and_blocks_at_the_end_of_the_log() -> None:
    """What was ended is not repeated."""
    lost = LostChanges(
        [
            _record("signing-stop-succeeded", {"network": None, "reason": "one"}),
            _record("signing-stop-succeeded", {"network": "local", "reason": "two"}),
            _record("signing-resume-succeeded", {"network": None, "reason": "ok"}),
            _record("signing-stop-succeeded", {**_HELD, "reason": "three"}),
            _record("signing-stop-succeeded", {**_HELD, "contract": "0xcd"}),
            _record("signing-resume-succeeded", {**_HELD, "contract": "0xcd"}),
            _record("tenant-block-succeeded", {"tenant": "shop"}),
            _record("tenant-block-succeeded", {"tenant": "gateway"}),
            _record("tenant-unblock-succeeded", {"tenant": "shop"}),
        ]
    )

    assert lost.stops == {("local", None): "two", ("local", "0xab"): "three"}
    assert lost.blocked_tenants == {"gateway"}


def _acceptance(world: Restored) -> tuple[Refund, Record]:
    refund = requested(world, "lost")
    return refund, world.log[-1]


@pytest.mark.parametrize("missing", ["created_at", "reference"])
def test_an_incomplete_acceptance_is_not_rebuilt(world: Restored, missing: str) -> None:
    """An earlier release wrote less, and a text may be redacted."""
    _, record = _acceptance(world)
    fields = record.fields
    del fields["details"][missing]
    redacted = _changed(record, reference=f"order {REDACTED}")

    assert rebuild(Record.of(fields, AT), AT) is None
    assert rebuild(redacted, AT) is None


def test_a_sweep_is_rebuilt(world: Restored) -> None:
    """Its record is that of the administrator's command."""
    refund, record = _acceptance(world)
    sweep = replace(refund, **bound())
    fields = record.fields
    fields["event"] = "key-sweep-succeeded"
    fields["details"] = describe_acceptance(sweep)

    due = replace(sweep, updated_at=AT, due_at=AT)
    assert rebuild(Record.of(fields, AT), AT) == due
