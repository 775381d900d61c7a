"""A preview says what the acceptance and the worker then do, and changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from signer.alerts import Alerts
from signer.config.deny_list import DenyList
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import (
    ChainError,
    ChainUnavailableError,
    ConflictError,
    InvalidInputError,
    LimitReachedError,
    PolicyViolationError,
    RowNotAuthenticError,
    ScreeningUnavailableError,
    StoreUnavailableError,
    TenantBlockedError,
)
from signer.model.hold import Hold, name_of_tenant
from signer.model.refund import Status
from signer.ports.chain import Fees, Preflight
from signer.refunds.gas_price_check import FEWEST, GasPriceCheck
from signer.refunds.preview import Preview, Previewer, PreviewOutcome, Simulation
from tests.fixtures.batches import VAULT
from tests.fixtures.ledger import forged_end, stopped
from tests.fixtures.scripted_chain import TOKEN
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.approvals import rule, ruled
from tests.support.refunds import (
    ACTOR,
    AMOUNT,
    CUSTOMER,
    REQUEST,
    World,
    altered,
    altered_chain,
)


GWEI = 10**9

PREVIEWED = replace(REQUEST, reference="previewed")


def _previewer(world: World) -> Previewer:
    alerts = Alerts(world.store, clock=world.clock)
    return Previewer(
        world.store,
        world.chains,
        wallets=lambda: [world.signer.address],
        clock=world.clock,
        tenants=world.tenants,
        gas_price_check=GasPriceCheck(world.store, alerts, world.clock),
        policy=world.payment_policy,
    )


def _preview(world: World) -> Preview:
    return _previewer(world).preview("gateway", PREVIEWED)


@pytest.mark.parametrize(
    ("per_item", "per_day", "delays"),
    [
        (AMOUNT, AMOUNT, []),
        (AMOUNT - 1, AMOUNT, ["vault-limit"]),
        (AMOUNT, AMOUNT - 1, ["vault-limit"]),
    ],
)
def test_a_vault_that_would_not_pay_now(
    world: World, per_item: int, per_day: int, delays: list[str]
) -> None:
    """The refund would wait; a preview raises no alert."""
    own = {world.signer.address}
    world.chain.vaults[VAULT] = ScriptedVault(VAULT, TOKEN, own, per_item, per_day)
    world.network = world.network.model_copy(update={"vault": VAULT})
    _enrol(world)

    found = _preview(world)

    assert [*found.delays] == delays
    assert world.store.alert_counts() == {}


def _enrol(world: World) -> None:
    world.ring.active()  # Opens the ring, which a process does when it starts.


def _nothing(world: World) -> None:
    """Everything is well."""


def _stop(world: World) -> None:
    stopped(world.store)


def _forge_stop(world: World) -> None:
    stopped(world.store)
    forged_end(world.store)


def _empty(world: World) -> None:
    world.chain.revert, world.chain.balance_left = "exceeds balance", AMOUNT - 1


def _wasteful(world: World) -> None:
    world.chain.gas = 2_000_001


def _silent(world: World) -> None:
    world.chain.fail("preflight", *[ChainUnavailableError("gone")] * 9)


def _without_estimate(world: World) -> None:
    """The nodes disagree about this call only."""

    def preflight(sender: str, calls: object) -> Preflight:
        error = ChainUnavailableError("the nodes disagree")
        return Preflight(
            world.chain.pending_count(sender), world.chain.fees(), (error,)
        )

    world.client = altered_chain(world.chain, preflight=preflight)


def _full(world: World) -> None:
    world.change_token(hourly_limit="13")
    world.paid()


def _expensive(world: World) -> None:
    for _ in range(FEWEST):
        world.paid()
    world.chain.answers = Fees(11 * GWEI, GWEI // 10)


def _paused(world: World) -> None:
    world.use_key_elsewhere(1)


def _ahead(world: World) -> None:
    world.use_key_elsewhere(1, work=False)


def _approved(world: World) -> None:
    world.change_token(approve_above="12.49")


def _rejected(world: World) -> None:
    world.chain.revert = "blocked"


@pytest.mark.parametrize(
    ("prepare", "status", "code"),
    [
        (_nothing, Status.BROADCAST, None),
        (_stop, Status.QUEUED, "signing-stopped"),
        (_forge_stop, Status.QUEUED, "row-not-authentic"),
        (_empty, Status.QUEUED, "insufficient-funds"),
        (_wasteful, Status.QUEUED, "gas-above-limit"),
        (_silent, Status.QUEUED, "chain-unavailable"),
        (_without_estimate, Status.QUEUED, "chain-unavailable"),
        (_full, Status.QUEUED, "limit-reached"),
        (_expensive, Status.QUEUED, "fees-above-recent"),
        (_paused, Status.QUEUED, "wallet-paused"),
        (_ahead, Status.QUEUED, "wallet-paused"),
        (_approved, Status.AWAITING_APPROVAL, "approval-required"),
        (_rejected, Status.REFUSED, "execution-reverted"),
    ],
)
def test_what_the_worker_then_does(
    world: World, prepare: Callable[[World], None], status: Status, code: str | None
) -> None:
    """H22: outcome and codes are those of the refund that is requested next."""
    _enrol(world)
    prepare(world)
    found = _preview(world)
    refund = world.submit(PREVIEWED, key="previewed").refund
    world.work()
    stored = world.stored(refund)

    assert stored.status == status
    if status is Status.REFUSED:
        assert found.outcome is PreviewOutcome.REFUSE
        assert found.simulation == Simulation(stored.failure_detail, None)
    elif code is None:
        assert (found.outcome, list(found.delays)) == (PreviewOutcome.PAY, [])
    else:
        assert (found.outcome, list(found.delays)) == (PreviewOutcome.WAIT, [code])
    if status is Status.QUEUED:
        assert stored.moving.blocked_by == code
    assert found.needs_approval == (status is Status.AWAITING_APPROVAL)


def test_the_quote_is_that_of_the_first_transaction(world: World) -> None:
    _enrol(world)
    quote = _preview(world).quote
    sent = world.sent(world.broadcast())

    assert quote is not None
    assert quote.gas_limit == sent.gas_limit
    assert (quote.max_fee, quote.priority_fee) == (
        sent.max_fee_per_gas,
        sent.max_priority_fee_per_gas,
    )
    assert quote.at_most == sent.gas_limit * sent.max_fee_per_gas
    assert quote.expected == world.chain.gas * (GWEI + GWEI // 10)
    world.chain.answers = Fees(None, 3 * GWEI)  # Without EIP-1559.
    world.clock.advance(minutes=1)
    quote = _preview(world).quote
    assert quote is not None
    assert (quote.max_fee, quote.priority_fee) == (3 * GWEI, 3 * GWEI)
    assert quote.expected == world.chain.gas * 3 * GWEI


def test_a_wallet_that_cannot_pay_for_gas(world: World) -> None:
    """The quote says what it lacks."""
    _enrol(world)
    world.chain.coin = 1
    found = _preview(world)

    assert (found.outcome, list(found.delays)) == (
        PreviewOutcome.WAIT,
        ["insufficient-funds"],
    )
    assert found.quote is not None


def test_an_error_of_a_node_without_a_code_of_its_own(world: World) -> None:
    _enrol(world)
    world.chain.fail("preflight", ChainError("it refused"))

    assert list(_preview(world).delays) == ["chain-failed"]


def test_a_code_is_reported_once(world: World) -> None:
    """Neither the tokens nor the coin suffice, and two rows are forged."""
    _enrol(world)
    world.broadcast()
    _forge_stop(world)
    wallet = world.wallet
    error = RowNotAuthenticError("changed")
    assert wallet.next_nonce
    world.client = altered_chain(world.chain, balance=error)

    assert list(_preview(world).delays) == ["row-not-authentic"]


def test_a_service_without_a_key(world: World) -> None:
    """Refunds are accepted; the limits are known."""
    world.change_token(hourly_limit="1000")
    world._enrolled = world.store
    found = _preview(world)

    assert (found.outcome, list(found.delays)) == (
        PreviewOutcome.WAIT,
        ["key-not-found"],
    )
    assert found.sender is None
    assert [limit.fits for limit in found.limits] == [True]


def test_no_gas_is_left_in_this_hour(world: World) -> None:
    """The request would be refused, and not wait."""
    _enrol(world)
    tenant = Tenant(subjects=("gateway",), gas_per_hour=2_000_000)
    world.tenants = TenantRegistry({"gateway": tenant})
    world.chain.gas = 1_600_000
    world.broadcast()

    found = _preview(world)

    assert isinstance(found.refusal, LimitReachedError)
    assert found.outcome is PreviewOutcome.REFUSE


def test_a_lowered_limit_leaves_no_room(world: World) -> None:
    """What is left is never negative."""
    _enrol(world)
    tenant = Tenant(subjects=("gateway",), gas_per_hour=None)
    world.tenants = TenantRegistry({"gateway": tenant})
    world.broadcast()
    world.change_token(daily_limit="1")
    (limit,) = _preview(world).limits

    assert (limit.left, limit.fits) == (0, False)


@pytest.mark.parametrize("gas", [62_500, 62_499])
def test_gas_has_a_limit_too(world: World, gas: int) -> None:
    _enrol(world)
    world.network = world.network.model_copy(update={"gas_per_hour": gas})
    (limit,) = _preview(world).limits

    assert limit.fits == (gas == 62_500)
    assert list(_preview(world).delays) == ([] if limit.fits else ["limit-reached"])


def test_requests_that_would_be_refused(world: World) -> None:
    """The refusal is the error of the acceptance; no node is asked."""
    _enrol(world)
    world.accepted(reference=PREVIEWED.reference)
    taken = _preview(world)
    world.store.begin_hold(Hold.of_tenant("gateway", world.clock(), "", ACTOR.name))
    blocked = _preview(world)
    world.store.end_hold(name_of_tenant("gateway"), world.clock())
    world.change_token(max_amount="1")
    large = _preview(world)
    calls = world.chain.calls

    for found, kind in (
        (taken, ConflictError),
        (blocked, TenantBlockedError),
        (large, PolicyViolationError),
    ):
        assert isinstance(found.refusal, kind)
        assert found.outcome is PreviewOutcome.REFUSE
        assert not found.needs_approval
        assert (found.refund, found.simulation, found.quote) == (None, None, None)
    assert "preflight" not in calls


def test_own_rules_that_refuse(world: World) -> None:
    """The refund would be accepted, and refused before it gets a nonce."""
    _enrol(world)
    ruled(world, '@id("no-refunds") forbid (principal, action, resource);')
    found = _preview(world)

    assert found.decision is not None
    assert found.decision.rule == "no-refunds"
    assert "policy-violation" in found.delays


def test_own_rules_that_let_refunds_wait(world: World) -> None:
    _enrol(world)
    ruled(world, rule("two-people", 2))
    found = _preview(world)

    assert found.refund is not None
    assert found.refund.status is Status.AWAITING_APPROVAL
    assert found.needs_approval
    assert "approval-required" in found.delays


def test_a_database_that_does_not_answer(world: World) -> None:
    """Nothing is known then."""
    _enrol(world)
    previewer = _previewer(world)
    gone = StoreUnavailableError("gone")
    previewer.store = altered(world.store, find_stop=gone)

    with pytest.raises(StoreUnavailableError):
        previewer.preview("gateway", PREVIEWED)


def test_a_denied_recipient(world: World, tmp_path: Path) -> None:
    """The answer to the request is a refusal, which a preview does not audit."""
    path = tmp_path / "denied.txt"
    path.write_text(CUSTOMER)
    world.deny_list = DenyList(path)
    found = _preview(world)

    assert found.outcome is PreviewOutcome.REFUSE
    assert getattr(found.refusal, "rule", None) == "recipient-denied"
    path.write_text(f"{CUSTOMER[:-1]}")
    with pytest.raises(ScreeningUnavailableError):
        _preview(world)


def test_a_malformed_request_is_an_error(world: World) -> None:
    """It is no request for a refund, so there is nothing to show."""
    with pytest.raises(InvalidInputError):
        _previewer(world).preview("gateway", replace(PREVIEWED, amount="1,5"))
