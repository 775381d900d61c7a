"""Refunds that a vault pays in batches: limits, and what holds up no other one."""

from datetime import timedelta
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import BroadcastRejectedError, InvalidInputError
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind
from signer.model.wallet import Pause
from signer.ports.chain import Fees
from signer.refunds.payment_approvals import decide
from signer.refunds.payment_checks import max_gas
from tests.fixtures.scripted_chain import TOKEN, Sent
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.refunds import AMOUNT, SECOND, VAULT, World, altered_chain
from tests.support.signed_requests import RequestKey


OTHER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@pytest.fixture
def vault(world: World) -> ScriptedVault:
    """The vault of the network of *world*."""
    return world.use_vault(max_batch=9)


def _worked(world: World, *refunds: Refund) -> list[Refund]:
    world.work()
    return [world.stored(each) for each in refunds]


@pytest.mark.parametrize(
    ("caps", "paid"),
    [
        ({"per_day": 2 * AMOUNT}, 2),
        ({"per_day": 2 * AMOUNT - 1}, 1),
        ({"per_item": AMOUNT - 1}, 0),
        ({"operators": {OTHER}}, 0),
    ],
)
def test_what_is_above_a_limit_waits(
    world: World, vault: ScriptedVault, caps: dict[str, int], paid: int
) -> None:
    """It has no nonce, can be cancelled, and operators get an alert."""
    for name, value in caps.items():
        setattr(vault, name, value)
    refunds = [world.accepted() for _ in range(3)]

    found = _worked(world, *refunds)

    assert [each.nonce for each in found] == [0] * paid + [None] * (3 - paid)
    assert {each.blocked_by for each in found[paid:]} == {"vault-limit"}


def test_what_was_spent_today_counts(world: World, vault: ScriptedVault) -> None:
    """By other operators as well."""
    vault.per_day = 2 * AMOUNT
    first, second, third = (world.accepted() for _ in range(3))
    _worked(world, first, second)
    world.chain.mine()

    (found,) = _worked(world, third)

    assert found.blocked_by == "vault-limit"


def test_what_was_spent_yesterday_does_not_count(
    world: World, vault: ScriptedVault
) -> None:
    """The vault shows it until it pays again: the chain is asked for its day."""
    vault.per_day = vault.yesterday = AMOUNT

    paid, waiting = _worked(world, world.accepted(), world.accepted())

    assert (paid.nonce, waiting.blocked_by) == (0, "vault-limit")


def test_what_is_in_the_pool_counts_if_the_vault_holds_little(
    world: World, vault: ScriptedVault
) -> None:
    """Two are sent and not mined; the third would be more than the vault holds."""
    world.chain.balance_left = 3 * AMOUNT - 1
    _worked(world, world.accepted(), world.accepted())

    (found,) = _worked(world, world.accepted())

    assert (found.nonce, found.blocked_by) == (None, "insufficient-funds")


@pytest.mark.parametrize("is_revoked", [True, False])
def test_what_a_removed_operator_sent_does_not_count(
    world: World, vault: ScriptedVault, *, is_revoked: bool
) -> None:
    """Its key may have no coin left, so that it is never mined."""
    vault.operators.add(SECOND.address)
    vault.per_day = 4 * AMOUNT
    world.chain.balance_left = 4 * AMOUNT
    _worked(world, *(world.accepted() for _ in range(4)))
    world.rotate(SECOND, block=is_revoked)
    if not is_revoked:
        vault.operators.discard(world.signer.address)
    world.chain.forget()

    found = world.accepted()
    world.work(after=timedelta(seconds=31))

    assert world.stored(found).sender == SECOND.address


def test_the_alert_lasts_as_long_as_a_refund_waits(
    world: World, vault: ScriptedVault
) -> None:
    """Others of its token are paid in the same passes."""
    vault.per_item = 2 * AMOUNT
    world.accepted(amount="30")
    worker, events = world.worker, []
    for _ in range(3):
        world.accepted()
        world.clock.advance(seconds=31)
        with capture_logs() as logs:
            worker.work()
        events += [each["event"] for each in logs if "alert" in each]
        world.mine_deep()

    assert "alert-resolved" not in events
    vault.per_item *= 9
    world.clock.advance(seconds=31)
    with capture_logs() as logs:
        worker.work()
    assert [each["alert"] for each in logs if each["event"] == "alert-resolved"]


def test_one_line_says_what_a_batch_has_paid(
    world: World, vault: ScriptedVault
) -> None:
    """What it has not paid has a line of its own."""
    refunds = [world.accepted() for _ in range(3)]
    vault.per_day, vault.shown_per_day = 2 * AMOUNT, 3 * AMOUNT
    world.work()
    with capture_logs() as logs:
        world.settle()

    paid, unpaid = (each for each in logs if each["event"].startswith("refund-"))
    assert (paid["event"], paid["log_level"]) == ("refund-ended", "info")
    assert (paid["status"], paid["code"]) == ("confirmed", None)
    assert paid["refund_ids"] == [each.id for each in refunds[:2]]
    assert paid["transaction"] == unpaid["transaction"]
    assert (unpaid["event"], unpaid["refund_id"]) == (
        "refund-queued-again",
        refunds[2].id,
    )


def test_the_day_is_that_of_the_chain(world: World, vault: ScriptedVault) -> None:
    """The clock of this host is ahead, and the vault would skip all of them."""
    vault.per_day = AMOUNT
    _worked(world, world.accepted())
    world.mine_deep()
    world.clock.advance(days=1)

    (found,) = _worked(world, world.accepted())

    assert (found.nonce, found.blocked_by) == (None, "vault-limit")


def test_each_further_transaction_waits_longer(
    world: World, vault: ScriptedVault
) -> None:
    """The vault skips the refund again and again, for a reason that no view shows."""
    refund = world.accepted()
    vault.per_day, vault.shown_per_day = 0, AMOUNT
    sent = []
    for _ in range(40):
        world.work(after=timedelta(seconds=31))
        sent.append(len(world.chain.broadcasts))
        world.mine_deep()
    tries = [place for place, each in enumerate(sent) if each > max([0, *sent[:place]])]

    pauses = [later - first for first, later in pairwise(tries)]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 7
    assert world.stored(refund).status is Status.QUEUED


NEXT = "0xCf7Ed3AccA5a467e9e704C703E8D87F634fB0Fc9"


def _reserved(world: World, *refunds: Refund) -> None:
    world.lifecycle.step_all(refunds)
    assert {world.stored(each).status for each in refunds} == {Status.RESERVED}


def _pass(world: World, times: int = 8) -> None:
    for _ in range(times):
        world.work(after=timedelta(seconds=31))
        world.mine_deep()


def test_another_vault_pays_what_was_reserved(
    world: World, vault: ScriptedVault
) -> None:
    """A no-op uses the nonce, and later refunds do not wait for the old vault."""
    refunds = [world.accepted() for _ in range(2)]
    _reserved(world, *refunds)
    following = ScriptedVault(NEXT, TOKEN, {world.signer.address}, day=vault.day)
    world.chain.vaults[NEXT] = following
    world.network = world.network.model_copy(update={"vault": NEXT})

    _pass(world)
    refunds.append(world.accepted())
    _pass(world)

    found = [world.stored(each) for each in refunds]
    assert {each.status for each in found} == {Status.CONFIRMED}
    assert world.store.attempts(found[0].reserved())[0].nonce > 0


@pytest.mark.parametrize("next_vault", [None, NEXT])
def test_a_batch_of_a_vault_that_the_network_has_no_more(
    world: World, vault: ScriptedVault, next_vault: str | None
) -> None:
    """A no-op competes with it, whose fee would never be raised."""
    refunds = [world.accepted() for _ in range(2)]
    world.work()
    if next_vault is not None:
        world.chain.vaults[next_vault] = ScriptedVault(
            next_vault, TOKEN, {world.signer.address}, day=vault.day
        )
    world.network = world.network.model_copy(update={"vault": next_vault})

    world.work(after=timedelta(seconds=31))
    assert [each.kind for each in world.store.attempts(world.found(0))] == [
        Kind.TRANSFER,
        Kind.NOOP,
    ]
    _pass(world)

    assert {world.stored(each).status for each in refunds} == {Status.CONFIRMED}
    assert len(world.chain.payouts()) == len(refunds)


def test_one_refund_above_a_lowered_limit(world: World, vault: ScriptedVault) -> None:
    """It waits alone; the others of its batch are paid by the next one."""
    small, large = world.accepted(), world.accepted(amount="20")
    _reserved(world, small, large)
    world.change_token(max_amount="15")

    _pass(world)

    assert world.stored(small).status is Status.CONFIRMED
    waiting = world.stored(large)
    assert (waiting.status, waiting.blocked_by) == (Status.QUEUED, "policy-violation")


def test_passes_reserve_no_more_than_the_cap(
    world: World, vault: ScriptedVault
) -> None:
    """What is in the pool counts: the contract would skip it."""
    vault.per_day = 4 * AMOUNT
    refunds = []
    for _ in range(3):
        refunds += [world.accepted() for _ in range(3)]
        world.work()

    nonces = [world.stored(each).nonce for each in refunds]
    assert sum(each is not None for each in nonces) == 4


def test_a_batch_that_reverted_gets_all_the_gas(
    world: World, vault: ScriptedVault
) -> None:
    """No item of the second one can use up what the others need."""
    refunds = [world.accepted() for _ in range(2)]
    world.work()
    first = world.stored(refunds[0]).gas_limit
    operators, vault.operators = vault.operators, {NEXT}
    world.mine_deep()
    world.work(after=timedelta(seconds=31))
    vault.operators = operators

    _pass(world)

    found = world.stored(refunds[0])
    assert found.status is Status.CONFIRMED
    assert first is not None
    assert found.gas_limit == 380_000 + 2 * max_gas(found, world.network) > first


def test_a_batch_has_the_gas_that_it_needs_and_some_more(
    world: World, vault: ScriptedVault
) -> None:
    """Not what its refunds would need in transactions of their own."""
    refunds = [world.accepted() for _ in range(9)]
    world.work()

    found = world.stored(refunds[0])
    sent = Sent.read(world.sent(found).raw)
    needed = vault.estimate(world.signer.address, sent.data)
    assert needed < sent.gas_limit == found.gas_limit == 380_000 + 9 * (62_500 - 21_000)


def test_a_batch_that_was_skipped_gets_no_more_gas(
    world: World, vault: ScriptedVault
) -> None:
    """Only one that reverted had too little."""
    refunds = [world.accepted() for _ in range(2)]
    world.work()
    first = world.sent(world.stored(refunds[0])).gas_limit
    full, vault.per_day = vault.per_day, 0
    world.mine_deep()
    world.work(after=timedelta(seconds=31))
    vault.per_day = full

    _pass(world)

    found = world.stored(refunds[0])
    assert found.status is Status.CONFIRMED
    assert world.sent(found).gas_limit == first


def test_a_batch_reverts_once_for_gas(world: World, vault: ScriptedVault) -> None:
    """The token became more expensive; the next batches have all that is allowed."""
    refunds = [world.accepted() for _ in range(9)]
    world.work()
    vault.item_gas = 120_000
    world.chain.mine_empty(1)

    _pass(world)

    found = [world.stored(each) for each in refunds]
    assert {each.status for each in found} == {Status.CONFIRMED}
    assert {each.nonce for each in found} == {1, 2, 3}


@pytest.mark.parametrize("bound", ["a block", "the cost of a transaction"])
def test_nodes_refuse_large_batches(
    world: World, vault: ScriptedVault, bound: str
) -> None:
    """No later refund waits for one: a no-op uses its nonce, and smaller ones pay."""
    chain, accepts = world.chain, world.chain.broadcast
    chain.coin = 10**24

    def broadcast(raw: bytes) -> None:
        sent = Sent.read(raw)
        if sent.gas_limit * sent.max_fee_per_gas > 10**18:
            raise BroadcastRejectedError("exceeds the configured cap", reason="other")
        accepts(raw)

    if bound == "a block":
        chain.block_gas = 500_000
    else:
        world.client = altered_chain(chain, broadcast=broadcast)
        chain.answers = Fees(base_fee=900 * 10**9, priority_fee=10**9)
        world.network = world.network.model_copy(
            update={"max_fee_per_gas_gwei": 10_000}
        )
    refunds = [world.accepted() for _ in range(9)]

    for _ in range(3):
        _pass(world)
    refunds.append(world.accepted())
    _pass(world)

    assert {world.stored(each).status for each in refunds} == {Status.CONFIRMED}
    assert len(chain.payouts()) == len(refunds)
    kinds = [each.kind for each in world.store.attempts(world.found(0))]
    assert kinds[-1] is Kind.NOOP


def test_a_batch_whose_nonce_is_used_elsewhere_is_queued_again(
    world: World, vault: ScriptedVault
) -> None:
    """It has paid nothing, and another one pays once an operator has looked (R10)."""
    refunds = [world.accepted() for _ in range(2)]
    world.work()
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(2)

    _pass(world, times=2)
    waiting = [world.stored(each) for each in refunds]
    status = world.reconcile()
    world.wallets.resume(status, world.chains["local"])
    _pass(world)

    assert [(each.status, each.failure_code) for each in waiting] == [
        (Status.QUEUED, None)
    ] * 2
    assert status.wallet.paused_by is Pause.FOREIGN_TRANSACTION
    paid = [world.stored(each) for each in refunds]
    assert [(each.status, each.nonce) for each in paid] == [(Status.CONFIRMED, 1)] * 2
    assert len(world.chain.payouts()) == 2


def test_the_vault_is_no_recipient(world: World, vault: ScriptedVault) -> None:
    """Its transfer to itself would look like a payment."""
    with pytest.raises(InvalidInputError, match="the vault that pays"):
        world.accepted(recipient=VAULT)


def test_a_refund_to_what_became_the_vault_waits(world: World) -> None:
    """It was accepted before; the policy refuses it as well."""
    refund = world.accepted(recipient=VAULT)
    world.use_vault()

    _pass(world, times=2)

    found = world.stored(refund)
    assert (found.nonce, found.blocked_by) == (None, "policy-violation")
    decision = decide(world.payment_policy, refund, world.network)
    assert decision.rules == ("recipient",)


@pytest.mark.parametrize("has_vault", [True, False])
def test_a_recipient_that_becomes_a_key(world: World, *, has_vault: bool) -> None:
    """A vault names the next key in public: a refund to it waits without a nonce."""
    if has_vault:
        world.use_vault(max_batch=9).operators.add(SECOND.address)
    bad = world.accepted(recipient=SECOND.address)
    world.rotate(SECOND)
    good = [world.accepted() for _ in range(5)]

    _pass(world)

    found = world.stored(bad)
    assert (found.status, found.nonce) == (Status.QUEUED, None)
    assert found.moving.blocked_by == "policy-violation"
    assert {world.stored(each).status for each in good} == {Status.CONFIRMED}
    assert len(world.chain.broadcasts) == (1 if has_vault else 5)


def test_a_tenant_signs_its_requests_from_now_on(
    world: World, vault: ScriptedVault
) -> None:
    """Its refund, which a worker that died had reserved, waits alone."""
    mine, other = world.accepted(), world.accepted(tenant="shop")
    _reserved(world, mine, other)
    key = RequestKey("shop")
    shop = Tenant(subjects=("shop",), request_keys={key.key_id: key.public})
    gateway = Tenant(subjects=("gateway",))
    world.tenants = TenantRegistry({"gateway": gateway, "shop": shop})
    world.compile_policy()

    _pass(world)

    assert world.stored(mine).status is Status.CONFIRMED
    found = world.stored(other)
    assert (found.status, found.blocked_by) == (Status.QUEUED, "row-not-authentic")
