"""
The simulation finds what it is for: bugs are planted, one at a time.

Each is a mistake that a published relayer made, or that this one nearly did.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from signer import ports
from signer.chain.chain import Chain
from signer.errors import BroadcastRejectedError, StaleStateError
from signer.keys.signer import Signer
from signer.model.audit_record import Actor, Record
from signer.model.key import Key
from signer.model.refund import InFlight, Refund, SignedTransaction, Status
from signer.refunds.attempts import Attempts
from signer.refunds.former_wallets import FormerWallets
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonces import NonceManager
from signer.refunds.pending_transactions import broadcast
from signer.refunds.sweep_policy import Objection
from signer.refunds.transaction_signer import Attempt, TransactionSigner
from tests.simulation.ledger import Ledger
from tests.simulation.schedule import played
from tests.simulation.system import NETWORK, Build


SEEDS = range(300)


class Overwrites:
    """A store whose changes do not compare versions."""

    def __init__(self, store: ports.Ledger) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        """Return what the store has."""
        return getattr(self._store, name)

    def save(
        self,
        before: Refund,
        after: Refund,
        transaction: SignedTransaction | None = None,
        outcome: Record | None = None,
    ) -> None:
        """Save *after*, whatever is there."""
        stored = self._store.get(before.id) or before
        before = replace(before, version=stored.version)
        after = replace(after, version=stored.version + 1)
        self._store.save(before, after, transaction, outcome)


class ForgetsHashes:
    """A store that knows only the last of a refund's transactions."""

    def __init__(self, store: ports.Ledger) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        """Return what the store has."""
        return getattr(self._store, name)

    def in_flight(self, limit: int, after: str | None = None) -> Sequence[InFlight]:
        """Return refunds with the one hash of their row."""
        found = self._store.in_flight(limit, after)
        return [InFlight(each.refund, (str(each.refund.tx_hash),)) for each in found]


class BroadcastsFirst(Attempts):
    """Hands bytes to the network before it records them."""

    def _sign_and_save(
        self,
        refund: Refund,
        attempt: Attempt,
        chain: Chain,
        actor: Actor,
        **changes: Any,
    ) -> Refund:
        payment = self._transaction_signer.build_and_sign(
            refund, attempt, chain.network, actor
        )
        signed = payment.transaction
        broadcast(signed, chain)
        changes |= {"tx_hash": signed.tx_hash}
        after = refund.with_status(Status.SIGNED, self._clock(), **changes)
        self._store.save(refund, after, signed, payment.outcome)
        return after


class SendsFirst(Lifecycle):
    """Makes such offers."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        store, _, transaction_signer, _, clock = parts
        self._attempts = BroadcastsFirst(store, transaction_signer, clock)


class Believes(FormerWallets):
    """Takes it that the ledger knows all that former keys have sent."""

    def require_known(self, chain: Chain, key: Key) -> None:
        """Believe it."""


class NeverLooksBack(NonceManager):
    """Gives out nonces without a look at former keys' wallets."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        store, _, clock = parts
        self._former = Believes(store, self.wallets, clock)


class PaysAnybody(TransactionSigner):
    """Signs sweeps to whoever was active when they were accepted."""

    def find_sweep_objection(self, refund: Refund) -> Objection | None:
        """Object to nothing."""
        return None

    def _open_signer(self, refund: Refund, sender: str, *rest: Any) -> Signer:
        digest, purpose, _ = rest
        return super()._open_signer(refund, sender, digest, purpose, None)


def _overwrites(ledger: Ledger) -> Build:
    return Build(store=lambda store: cast("ports.Ledger", Overwrites(store)))


def _forgets_hashes(ledger: Ledger) -> Build:
    return Build(store=lambda store: cast("ports.Ledger", ForgetsHashes(store)))


def _sends_first(ledger: Ledger) -> Build:
    return Build(lifecycle=SendsFirst)


def _believes_early(ledger: Ledger) -> Build:
    return Build(network=NETWORK.model_copy(update={"confirmations": 1}))


def _takes_another_nonce(ledger: Ledger) -> Build:
    class TakesAnotherNonce(Lifecycle):
        """Answers "nonce too low" with another nonce, as if nothing were mined."""

        def step(self, refund: Refund, actor: Actor) -> Refund:
            if refund.status in {Status.SIGNED, Status.BROADCAST}:
                self._send(refund, self._chain(refund))
            return super().step(refund, actor)

        def _send(self, refund: Refund, chain: Chain) -> None:
            for latest in self._store.transactions(refund.id)[-1:]:
                try:
                    chain.client.broadcast(latest.raw)
                except BroadcastRejectedError as e:
                    if e.reason == "nonce-too-low":
                        ledger.requeue(refund.id)
                    raise StaleStateError("begins anew") from None

    return Build(lifecycle=TakesAnotherNonce)


@pytest.mark.parametrize(
    ("plant", "broken"),
    [
        (_overwrites, "I4"),
        (_takes_another_nonce, "I3"),
        (_sends_first, "I2"),
        (_believes_early, "I1"),
        (_forgets_hashes, "G2"),
    ],
)
def test_a_planted_bug_is_found(
    ledger: Ledger, plant: Callable[[Ledger], Build], broken: str
) -> None:
    """A few hundred schedules find it, and name the invariant that it breaks."""
    build = plant(ledger)
    found = (played(seed, ledger, build).violations for seed in SEEDS)

    assert any(each.startswith(broken) for violations in found for each in violations)


@pytest.mark.parametrize("turns", [("flee",), ("rotate", "return")])
def test_a_payment_by_a_former_key_is_not_forgotten(
    ledger: Ledger, turns: tuple[str, ...]
) -> None:
    """Who pays without a look at former keys pays twice behind a restore."""
    build = Build(nonces=NeverLooksBack)
    found = (
        played(seed, ledger, build, is_restored=True, turns=turns).violations
        for seed in SEEDS
    )

    assert any("paid 2 times" in each for violations in found for each in violations)


def test_a_sweep_to_a_former_key_is_found(ledger: Ledger) -> None:
    """Who does not look at the ring again sweeps to a key that was given up."""
    turns = ("rotate", "return", "flee back")
    # A device that fails most of the time, so that a turn falls between two tries.
    slow: dict[str, Any] = {
        "device": 0.9,
        "calm_at": 200.0,
        "requests": 2,
        "attended": True,
    }
    build = Build(payer=PaysAnybody)
    found = (
        played(seed, ledger, build, turns=turns, sweeps=True, **slow).violations
        for seed in SEEDS
    )

    assert any(each.startswith("O8") for violations in found for each in violations)


def test_a_restored_ledger_cannot_see_behind_a_gap(ledger: Ledger) -> None:
    """
    The one double payment that is known: a node keeps what a backup has forgotten.

    It waits behind a gap that no count shows, the refund is asked for again and takes
    the nonce of the gap, and then both are mined.  Whoever cures this turns the test
    around.
    """
    found = (
        played(seed, ledger, hides_sent=True, is_restored=True).violations
        for seed in SEEDS
    )

    assert any("paid 2 times" in each for violations in found for each in violations)
