"""What a restored ledger needs, and what keeps a restore from being possible."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from api.extras.restore.plan import KeyChange
from api.extras.restore.planner import MOST_FILLERS, find_missing_changes
from signer.audit.actions import AuditAction
from signer.config.tenants import TenantRegistry
from signer.model.audit_record import Record
from signer.model.key import Key, KeyState
from signer.model.refund import Status
from signer.model.wallet import Pause
from signer.ports.ledger import Ledger
from signer.redact import key_prefix
from signer.refunds.transaction_signer import build_purpose, describe_acceptance
from tests.fixtures.ledger import bound, stopped
from tests.support.keys import key_at
from tests.support.refunds import (
    ACTOR,
    OPERATOR,
    REQUEST,
    SECOND,
    THIRD,
    World,
    altered_chain,
)
from tests.support.restores import filling, plan_of, requested


Backup = Callable[[], Ledger]


def _lose(world: World, backup: Ledger) -> None:
    """Replace the ledger by its *backup*, when the chain is final."""
    world.mine_deep()
    world.store = backup


def _stated(world: World, mark: int) -> dict[tuple[str, str], int]:
    return {("local", world.signer.address): mark}


def test_a_complete_ledger_needs_nothing(world: World, log: Sequence[Record]) -> None:
    """With its own log, and with a log that has nothing."""
    world.step(requested(world, "one"), times=3)
    world.settle()

    for records in (log, ()):
        plan = plan_of(world, records)
        assert plan.is_empty
        assert (plan.incomplete, plan.problems) == ([], [])


def test_a_lost_refund_gets_its_row_and_its_nonce(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """The wallet is paused until its nonce is final."""
    world.step(requested(world, "one"), times=3)
    world.settle()
    copy = backup()
    refund = requested(world, "lost")
    world.step(refund, times=2)
    _lose(world, copy)

    plan = plan_of(world, log)

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
    world: World, log: Sequence[Record], empty: Callable[[], Ledger]
) -> None:
    """It does not have the wallet, and knows no nonce."""
    world.step(requested(world, "one"), times=3)
    world.settle()
    world.step(requested(world, "two"), times=1)
    _lose(world, empty())
    world.ring.active()

    plan = plan_of(world, log)

    (wallet,) = plan.wallets
    assert wallet.wallet.version == 0
    assert (wallet.wallet.first_nonce, wallet.mined, wallet.high_water) == (0, 1, 2)
    assert [each.nonce for each in plan.refunds] == [0, 1]
    assert wallet.fillers == []


def test_a_lost_ledger_knows_the_last_thousand_nonces(
    world: World, log: Sequence[Record]
) -> None:
    """A wallet with more transactions starts a thousand below the chain's count."""
    world.ring.active()
    world.client = altered_chain(
        world.chain,
        pending_count=lambda address: 5_000,
        transaction_count=lambda address, block=None: 4_998,
    )

    (wallet,) = plan_of(world, log).wallets

    assert wallet.wallet.first_nonce == 4_000
    assert wallet.fillers == [4_998, 4_999]


def test_fillers_above_a_thousand_forgotten_nonces(world: World) -> None:
    """The mined ones are not filled, however many they are."""
    world.paid()
    world.client = altered_chain(
        world.chain,
        pending_count=lambda address: 5_000,
        transaction_count=lambda address, block=None: 4_998,
    )

    (wallet,) = plan_of(world, ()).wallets

    assert wallet.fillers == [4_998, 4_999]


def test_a_ledger_without_a_key(world: World) -> None:
    """The first key is in no log."""
    plan = plan_of(world, ())

    assert len(plan.problems) == 1
    assert "`hotwallet guard`" in plan.problems[0]


def test_without_a_log_each_mark_must_be_stated(world: World) -> None:
    """The problem names the lowest mark that is possible."""
    world.paid()
    name = f"local {world.signer.address}: "

    missing = plan_of(world, (), has_log=False)
    too_low = plan_of(world, (), stated=_stated(world, 0), has_log=False)
    right = plan_of(world, (), stated=_stated(world, 2), has_log=False)

    option = f"--high-water local:{world.signer.address}=NONCE"
    assert missing.problems == [
        f"{name}state how many transactions it has signed, 1 or more: {option}"
    ]
    assert too_low.problems == [f"{name}its high-water mark must be 1 or more"]
    (wallet,) = right.wallets
    assert (wallet.high_water, wallet.fillers, wallet.is_stated) == (2, [1], True)


def test_a_stated_mark_below_the_log(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """The log has a higher nonce."""
    copy = backup()
    world.step(requested(world, "lost"), times=2)
    _lose(world, copy)
    world.ring.active()

    plan = plan_of(world, log, stated=_stated(world, 0))

    assert [each.endswith("must be 1 or more") for each in plan.problems] == [True]


def test_a_stated_mark_of_an_address_that_the_ring_lacks(world: World) -> None:
    """A mistyped address would otherwise leave the nonces of the wallet unfilled."""
    world.paid()
    stated = {("local", THIRD.address): 7, **_stated(world, 1)}

    (problem,) = plan_of(world, (), stated=stated).problems

    assert problem.startswith(f"local {THIRD.address}: the ring has no such key")
    assert "changes nothing" in problem


@pytest.mark.parametrize("is_known", [True, False], ids=["wallet", "lost"])
def test_a_mark_that_needs_too_many_fillers(world: World, is_known: bool) -> None:
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


def test_transactions_that_are_not_final(world: World) -> None:
    """Until then, a reorganisation could make their nonces free."""
    world.paid()
    world.chain.mine_foreign(world.signer.address)

    plan = plan_of(world, ())
    world.chain.mine_empty(2)

    assert [each.split(": ")[1] for each in plan.problems] == [
        "1 of its transactions are not final yet"
    ]
    assert not plan_of(world, ()).problems


def test_a_key_that_the_ring_lacks(world: World, log: Sequence[Record]) -> None:
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


def test_a_rotation_needs_its_key(world: World) -> None:
    """The problem shows the start of the key's id."""
    world.ring.active()
    record = Record.of(
        {
            "event": "key-rotate-succeeded",
            "details": {
                "key": key_prefix(SECOND.address.lower()),
                "key_address": SECOND.address,
                "previous_key_address": world.signer.address,
            },
        },
        world.clock(),
    )

    without = plan_of(world, [record])
    given = plan_of(world, [record], key_ids=[SECOND.address.lower()])

    assert len(without.problems) == 1
    start = key_prefix(SECOND.address.lower())
    assert without.problems[0].endswith(f"--key KEY_ID, an id that begins with {start}")
    assert not given.problems
    assert [each.address for each in given.key_changes] == [SECOND.address]


def test_a_revoked_key_gets_no_fillers(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """Its key signs nothing; the wallet stays paused until its nonces are mined."""
    copy = backup()
    world.step(requested(world, "lost"))
    _lose(world, copy)
    world.ring.active()
    world.rotate(block=True)

    (wallet,) = plan_of(world, log).wallets
    stated = plan_of(world, (), stated=_stated(world, 2), has_log=False).wallets

    assert (wallet.high_water, wallet.fillers, wallet.is_revoked) == (1, (), True)
    assert [(each.high_water, each.fillers) for each in stated] == [(2, ())]


def test_a_gap_of_a_revoked_key_that_is_mined(world: World) -> None:
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


def test_a_paused_wallet_without_a_mark_needs_one(world: World) -> None:
    """Also if the ledger knows every nonce."""
    world.paid()
    world.store.pause(world.wallet, Pause.RESTORED, world.clock())

    (wallet,) = plan_of(world, ()).wallets
    world.store.pause(world.wallet, Pause.RESTORED, world.clock(), 1)

    assert wallet.high_water == 1
    assert plan_of(world, ()).is_empty


def test_a_tenant_that_signs_its_requests(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """A worker needs the request, which only the gateway can repeat."""
    copy = backup()
    refund = requested(world, "lost")
    _lose(world, copy)
    world.ring.active()
    world.tenants = _signing_tenants()

    plan = plan_of(world, log)

    assert plan.incomplete == [refund.id]
    assert plan.refunds == []


def _signing_tenants() -> TenantRegistry:
    class Signing(TenantRegistry):
        def request_keys(self, name: str) -> dict[str, bytes]:  # type: ignore[override]
            return {"key": b""}

    return Signing()


def test_a_refund_of_a_removed_network(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """It is reported, and the rest is restored."""
    copy = backup()
    refund = requested(world, "lost")
    _lose(world, copy)
    world.ring.active()
    fields = log[-1].fields
    fields["details"]["network"] = "gone"

    plan = plan_of(world, [Record.of(fields, world.clock())])

    assert plan.incomplete == [refund.id]


def test_a_nonce_of_a_refund_whose_acceptance_is_not_in_the_log(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """A filler gets it, and the gateway requests the refund again."""
    copy = backup()
    refund = world.step(requested(world, "lost"))
    _lose(world, copy)
    world.ring.active()

    plan = plan_of(world, [each for each in log if "refund-accept" not in each.body])

    assert plan.incomplete == [refund.id]
    assert [each.fillers for each in plan.wallets] == [[0]]


def test_a_lost_filler_is_filled_again(world: World) -> None:
    """An earlier restore made it, and the backup is older."""
    world.paid()
    record = world.signer.intent(filling(1))

    plan = plan_of(world, [record])

    assert plan.incomplete == []
    assert [each.fillers for each in plan.wallets] == [[1]]


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_refund_that_was_requested_again(
    world: World, log: Sequence[Record], backup: Backup, is_signed: bool
) -> None:
    """The row with the new id gets the nonce; without one it needs nothing."""
    copy = backup()
    refund = requested(world, "lost")
    if is_signed:
        world.step(refund)
    _lose(world, copy)
    again = requested(world, "lost")

    plan = plan_of(world, log)

    assert again.id != refund.id
    assert [(each.refund, each.record, each.nonce) for each in plan.refunds] == (
        [(again, None, 0)] if is_signed else []
    )
    assert [each.fillers for each in plan.wallets] == ([[]] if is_signed else [])
    assert plan.incomplete == []


@pytest.mark.parametrize(
    ("reference", "key", "lost"), [("lost", "other", 0), ("other", "key of lost", 1)]
)
def test_a_refund_whose_key_or_reference_is_in_use(
    world: World,
    log: Sequence[Record],
    backup: Backup,
    reference: str,
    key: str,
    lost: int,
) -> None:
    """Its nonce gets a filler; a payment is found by the reference's memo."""
    copy = backup()
    refund = world.step(requested(world, "lost"))
    records = list(log)
    _lose(world, copy)
    world.ring.active()
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


def test_cancellations_and_refusals(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """Of refunds that the backup has, and of others."""
    old = requested(world, "old")
    copy = backup()
    new = requested(world, "new")
    for refund in (old, new):
        world.service.request_cancellation("gateway", refund.id, ACTOR)
    refused = requested(world, "refused")
    world.chain.revert = "blocked"
    world.step(refused)
    _lose(world, copy)

    plan = plan_of(world, log)

    found = {each.refund.id: each for each in plan.refunds}
    assert [found[each.id].record is None for each in (old, new, refused)] == [
        True,
        False,
        False,
    ]
    assert [found[each.id].cancellation is None for each in (old, new, refused)] == [
        False
    ] * 3
    assert plan.facts()["cancelled"] == 3


def test_a_refused_sweep_is_not_repeated(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """It moved nothing."""
    copy = backup()
    refund = requested(world, "sweep")
    fields = log[-1].fields
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


def test_a_cancellation_that_the_ledger_has(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """The gateway has repeated it: nothing is left to do."""
    refund = requested(world, "old")
    copy = backup()
    world.service.request_cancellation("gateway", refund.id, ACTOR)
    records = list(log)
    _lose(world, copy)
    world.service.request_cancellation("gateway", refund.id, ACTOR)

    assert plan_of(world, records).refunds == []


def test_refunds_that_have_ended_need_nothing(
    world: World, log: Sequence[Record], backup: Backup
) -> None:
    """A worker has found the payment meanwhile."""
    refund = requested(world, "one")
    copy = backup()
    world.step(refund, times=3)
    _lose(world, copy)
    world.state_marks()
    world.finish(refund)

    assert world.stored(refund).status is Status.CONFIRMED
    assert plan_of(world, log).refunds == []


def test_stops_and_blocks(world: World, log: Sequence[Record], backup: Backup) -> None:
    """Those that are not in force, of networks that exist."""
    requested(world, "before")
    copy = backup()
    world.holds.block("gateway", OPERATOR)
    for name in (None, "local"):
        world.holds.stop(name, "drill", OPERATOR)
    _lose(world, copy)
    world.ring.active()
    gone = Record.of(
        {
            "event": "signing-stop-succeeded",
            "details": {"network": "gone", "reason": "drill"},
        },
        world.clock(),
    )

    plan = plan_of(world, [*log, gone])
    stopped(world.store, at=world.clock())

    assert plan.stops == {(None, None): "drill", ("local", None): "drill"}
    assert plan.blocked_tenants == ["gateway"]
    assert len(plan.records) == 4
    assert plan_of(world, log).stops == {(None, None): "drill"}


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
    changes: list[KeyChange],
    ring: list[tuple[str, KeyState]],
    missing: list[KeyChange],
) -> None:
    """An interrupted restore continues after the last change that it repeated."""
    assert find_missing_changes(changes, _ring(*ring)) == missing


def test_the_last_failover_counts() -> None:
    """A key may have been moved twice."""
    back = KeyChange(AuditAction.KEY_FAILOVER, B, key_prefix(B.lower()))
    (key,) = _ring((B, ACTIVE))

    assert find_missing_changes([MOVED, back], [key]) == []
    assert find_missing_changes([back, MOVED], [key]) == [back, MOVED]
