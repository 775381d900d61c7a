"""What a transfer needed a moment ago spares an estimate, and proves its gas limit."""

from collections import Counter
from dataclasses import replace

import pytest

from signer.chain.chain import Chain
from signer.errors import ChainUnavailableError, ExecutionRevertedError
from signer.model.payment import PaymentPurpose
from signer.model.refund import Refund, Status
from signer.ports.chain import Call
from signer.refunds.gas import GasMemory
from tests.support.refunds import SECOND, World, altered_chain, signer


PAYER, OTHER = signer().address, SECOND.address
ESTIMATE, RUN = "estimate_gas", "run"


def _sent(world: World, refunds: list[Refund]) -> set[int]:
    """Return the gas limits of *refunds*, which were sent."""
    assert {world.stored(each).status for each in refunds} == {Status.BROADCAST}
    return {world.sent(world.stored(each)).gas_limit for each in refunds}


def _calls(world: World) -> Counter[str]:
    """Return the estimates and runs since the last time."""
    found = Counter({each: world.chain.calls.pop(each, 0) for each in (ESTIMATE, RUN)})
    return +found


def test_a_transfer_is_run_with_what_the_last_one_needed(world: World) -> None:
    """It has the same gas limit, which sufficed with half of its margin (R14)."""
    calls: list[Call] = []

    def run(call: Call) -> int:
        calls.append(call)
        return world.chain.estimate_gas(call)

    world.client = altered_chain(world.chain, estimate_gas=run)
    worker = world.worker
    first = [world.accepted() for _ in range(2)]
    worker.work()
    later = [world.accepted() for _ in range(3)]
    worker.work()

    assert _sent(world, first + later) == {62_500}
    assert _calls(world) == {ESTIMATE: 1, RUN: 5}
    assert [call.gas for call in calls] == [None, *[56_250] * 5]


def test_the_first_of_several_is_estimated_for_all(world: World) -> None:
    """One that needs more, or that the token refuses, is estimated as well."""
    dear, blocked, *_ = refunds = [world.accepted() for _ in range(6)]

    def estimate(call: Call) -> int:
        if call.data.endswith(blocked.memo):
            world.chain.calls[ESTIMATE if call.gas is None else RUN] += 1
            raise ExecutionRevertedError("blocklisted")
        gas = world.chain.estimate_gas(call)
        return gas + 20_000 * call.data.endswith(dear.memo)

    for order in (refunds, refunds[1:] + refunds[:1], refunds[2:] + refunds[:2]):
        chain = altered_chain(world.chain, estimate_gas=estimate)
        memory = GasMemory(world.clock)
        _calls(world)
        found = memory.preflight(order, Chain(world.network, chain), PAYER).estimates
        by_id = dict(zip([each.id for each in order], found, strict=True))

        assert by_id.pop(dear.id) == 70_000
        assert isinstance(by_id.pop(blocked.id), ExecutionRevertedError)
        assert set(by_id.values()) <= {50_000, 70_000}


def test_a_transfer_that_fails_because_of_others_is_paid(world: World) -> None:
    """As the last of a batch, for which the others leave too little (R14)."""
    memory, chain = GasMemory(world.clock), world.chains["local"]

    found = memory.preflight([world.accepted() for _ in range(5)], chain, PAYER)

    assert found.estimates == (50_000,) * 5
    assert _calls(world) == {ESTIMATE: 1 + 1, RUN: 5}


def test_an_estimate_is_used_for_a_minute(world: World) -> None:
    """However often it is used: gas may follow prices that a run does not show."""
    memory, chain = GasMemory(world.clock), world.chains["local"]
    refund = world.accepted()
    for seconds in (0, 30, 29, 1, 59):
        world.clock.advance(seconds=seconds)
        memory.preflight([refund], chain, PAYER)

    assert _calls(world) == {ESTIMATE: 2, RUN: 3}
    world.clock.advance(seconds=-120)  # A clock that was set back.
    memory.preflight([refund], chain, PAYER)
    assert _calls(world) == {ESTIMATE: 1}


def test_a_token_that_becomes_more_expensive_is_estimated(world: World) -> None:
    """A run with less gas than is signed fails first: no transfer runs out of gas."""
    worker = world.worker
    world.accepted()
    worker.work()
    _calls(world)

    world.chain.gas = 56_250
    slightly = [world.accepted() for _ in range(2)]
    worker.work()
    assert _sent(world, slightly) == {62_500}
    assert _calls(world) == {RUN: 2}

    world.chain.gas = 56_251
    much = [world.accepted() for _ in range(2)]
    worker.work()
    assert _sent(world, much) == {70_313}
    assert _calls(world) == {RUN: 2, ESTIMATE: 2}

    world.chain.gas = 50_000
    again = [world.accepted()]
    worker.work()
    assert _sent(world, again) == {70_313}
    assert _calls(world) == {RUN: 1}


@pytest.mark.parametrize(("largest", "trial"), [(52_001, 51_000), (50_000, 50_000)])
def test_a_run_has_no_more_gas_than_is_signed(
    world: World, largest: int, trial: int
) -> None:
    """The token's ``max_gas`` may leave no margin."""
    world.change_token(max_gas=largest)
    worker = world.worker
    world.accepted()
    worker.work()

    world.chain.gas = trial
    refund = world.accepted()
    worker.work()

    assert _sent(world, [refund]) == {largest}
    assert _calls(world) == {ESTIMATE: 1, RUN: 1}


def test_a_transfer_that_is_refused_gets_no_nonce(world: World) -> None:
    """The run shows it, an estimate decides, and the others of the batch are paid."""
    worker = world.worker
    world.accepted()
    worker.work()
    _calls(world)
    good, blocked = world.accepted(), world.accepted()

    def refuse(call: Call) -> int:
        if call.data.endswith(blocked.memo):
            world.chain.calls[ESTIMATE if call.gas is None else RUN] += 1
            raise ExecutionRevertedError("blocklisted")
        return world.chain.estimate_gas(call)

    worker._lifecycle._chains = {
        "local": replace(
            world.chains["local"],
            client=altered_chain(world.chain, estimate_gas=refuse),
        )
    }
    worker.work()

    refused = world.stored(blocked)
    assert (refused.status, refused.nonce) == (Status.REFUSED, None)
    assert refused.failure_detail == "blocklisted"
    assert world.stored(good).nonce == 1
    assert _calls(world) == {RUN: 2, ESTIMATE: 1}


def test_a_run_without_a_response_is_estimated(world: World) -> None:
    """If the nodes do not answer then either, the refund waits as before."""
    worker = world.worker
    world.accepted()
    worker.work()
    _calls(world)

    world.chain.fail(RUN, ChainUnavailableError("gone"))
    paid = world.accepted()
    worker.work()
    assert _sent(world, [paid]) == {62_500}
    assert _calls(world) == {RUN: 1, ESTIMATE: 1}

    world.chain.fail(RUN, ChainUnavailableError("gone"))
    world.chain.fail(ESTIMATE, ChainUnavailableError("gone"))
    waiting = world.accepted()
    worker.work()
    assert world.stored(waiting).moving.blocked_by == "chain-unavailable"


def test_only_transfers_of_the_same_token_and_sender_share_an_estimate(
    world: World,
) -> None:
    """What a vault or another key pays may need more, and a call may do anything."""
    memory, chain = GasMemory(world.clock), world.chains["local"]
    refund = world.accepted()
    other = replace(refund, token_address="0x" + "00" * 20)
    call = replace(refund, calldata=b"call", purpose=PaymentPurpose.CALL)

    for refunds, sender in (([refund], PAYER), ([refund], OTHER), ([other], PAYER)):
        memory.preflight(refunds, chain, sender)
    memory.preflight([call, call], chain, OTHER)
    assert _calls(world) == {ESTIMATE: 5}

    found = memory.preflight([refund, call, other], chain, OTHER)
    assert _calls(world) == {RUN: 1, ESTIMATE: 2}
    assert found.estimates == (50_000,) * 3


def test_an_impossible_estimate_is_not_remembered(world: World) -> None:
    """A lie of a single node would otherwise hold up refunds when it is honest."""
    world.chain.gas = 10**7
    worker = world.worker
    late = world.accepted()
    worker.work()
    assert world.stored(late).moving.blocked_by == "gas-above-limit"

    world.chain.gas = 50_000
    refund = world.accepted()
    worker.work()
    assert _sent(world, [refund]) == {62_500}
