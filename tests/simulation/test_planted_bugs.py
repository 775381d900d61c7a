"""
The simulation finds planted bugs, each of which breaks an invariant.

Each is a mistake that a published relayer made, or that this one nearly made.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest

from api.extras.restore.plan import RestorePlan
from api.extras.restore.planner import RestorePlanner
from signer.chain.chain import Chain
from signer.config.tenants import TenantRegistry
from signer.errors import BroadcastRejectedError, HotWalletError, StaleStateError
from signer.model.audit_record import Record
from signer.model.key import Key
from signer.model.payment import PaymentState
from signer.model.refund import InFlight, Refund, Status
from signer.model.transaction import PaymentEnd, Transaction, TransactionStatus
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from signer.ports.chain import Receipt
from signer.ports.ledger import Ledger as Store
from signer.ports.refund_store import Change
from signer.refunds.attempts import Attempts
from signer.refunds.broadcasts import broadcast
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.former_wallets import FormerWallets
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonce_checks import NonceManager
from signer.refunds.payment_parts import PaymentParts
from signer.refunds.saved_steps import Moving, Outcome, Outcomes
from signer.refunds.sweep_policy import Objection
from signer.refunds.transaction_signer import SignedAttempt, TransactionSigner
from tests.simulation.ledger import Ledger
from tests.simulation.processes import NETWORK, Build
from tests.simulation.schedule import play, warn_if_stale
from tests.support.refunds import altered


SEEDS = range(600)

_PAID_TWICE = ".*paid 2 times"

# The nonce of a transaction that the ledger has lost was given to another refund.
_NONCE_TWICE = f"I2: nonce .* was sent for 2 refunds|{_PAID_TWICE}"

# A client requests everything again, and nodes lose what the ledger has forgotten.
_WITHOUT_LOG: dict[str, Any] = {
    "is_restored": True,
    "has_log": False,
    "mark_error": 0,
    "asks_again": True,
    "hides": True,
}

# A schedule without other faults has the one in question more often, and takes less
# time: workers look at the chain when it can have changed, so fewer faults coincide.
_QUIET: dict[str, Any] = {
    **dict.fromkeys(
        ("kill", "store", "chain", "device", "stale", "stall", "reorg", "drop"), 0.0
    ),
    "requests": 6,
    "blocked": 0,
    "has_foreign": False,
    "turns": (),
    "sweeps": False,
}

# Blocks leave the chain, and their transactions the pools.
_UNSTABLE: dict[str, Any] = {
    **_QUIET,
    "reorg": 0.5,
    "drop": 0.5,
    "spike_fee": 0.0,
    "calm_at": 120.0,
    "is_restored": False,
}

# Several transactions wait when the backup is put back.
_CROWDED: dict[str, Any] = {**_QUIET, "spike_fee": 0.3, "calm_at": 60.0}

_NARROW: dict[str, Any] = {"window": 1, "is_restored": False, "requests": 6}

_ONE_CONFIRMATION = NETWORK.model_copy(update={"confirmations": 1})


def _overwriting(store: Store) -> Store:
    """Return a store that saves without comparing versions."""

    def renewed(change: Change) -> Change:
        first = change.before
        before = first if isinstance(first, Refund) else first.payment
        stored = store.get(before.id) or before
        own, paying = stored.version - before.version, 0
        if stored.transaction is not None and before.transaction is not None:
            paying = stored.transaction.version - before.transaction.version

        def later(row: Any) -> Any:
            """Return *row* with so many more changes of the refund and its nonce."""
            if isinstance(row, Refund):
                return replace(row, version=row.version + own)
            row = replace(row, version=row.version + paying)
            return row.paying(later(each) for each in row.payments)

        return replace(change, before=later(first), after=later(change.after))

    def save_all(changes: Sequence[Change]) -> Sequence[HotWalletError | None]:
        return store.save_all([renewed(change) for change in changes])

    def save(before: Moving, after: Moving, *rest: Any) -> None:
        change = renewed(Change(before, after, *rest))
        store.save(change.before, change.after, change.attempt, change.record)

    return altered(store, save=save, save_all=save_all)


def _forgetting(store: Store) -> Store:
    """Return a store that knows only the last attempt of a transaction."""

    def in_flight(limit: int, after: Transaction | None = None) -> Sequence[InFlight]:
        found = (each.transaction for each in store.in_flight(limit, after))
        return [InFlight(each, (str(each.tx_hash),)) for each in found]

    return altered(store, in_flight=in_flight)


def _counting_early(store: Store) -> Store:
    """Return a store that does not count again when it assigns nonces."""

    def reserve_all(*given: Any, **named: Any) -> Any:
        return store.reserve_all(*given, **{**named, "window": None})

    return altered(store, reserve_all=reserve_all)


def _plant_early_places(ledger: Ledger) -> Build:
    """Free a place when a transaction is broadcast, and not at its receipt."""

    def count(sender: str) -> Mapping[int, int]:
        unsent = ledger.select(
            "SELECT chain_id, count(*) FROM transactions WHERE sender = ? AND"
            " status IN ('reserved', 'signed') GROUP BY chain_id",
            sender,
        )
        return dict(unsent)

    def build(store: Store) -> Store:
        return altered(_counting_early(store), count_in_flight=count)

    return Build(store=build)


class EarlyBroadcasts(Attempts):
    """Broadcasts a transaction before it records it."""

    def _sign_all(
        self, plans: Sequence[Any], chain: Chain
    ) -> Sequence[SignedAttempt | Exception]:
        payments = super()._sign_all(plans, chain)
        signed = [each for each in payments if isinstance(each, SignedAttempt)]
        broadcast([each.attempt for each in signed], chain)
        return payments


class EarlyBroadcastLifecycle(Lifecycle):
    """Uses ``EarlyBroadcasts``."""

    def __init__(self, parts: PaymentParts, chains: Mapping[str, Chain]) -> None:
        super().__init__(parts, chains)
        parts.attempts = EarlyBroadcasts(
            parts.store,
            parts.transaction_signer,
            parts.attempts.pricing.gas_price_check,
            parts.clock,
            parts.approvals,
        )


class UncheckedFormerWallets(FormerWallets):
    """Assumes that the ledger knows all transactions of former keys."""

    def require_known(
        self, chain: Chain, key: Key, *, if_restored: bool = False
    ) -> None:
        """Check nothing."""


class UncheckedNonces(NonceManager):
    """Assigns nonces without checking the wallets of former keys."""

    def __init__(self, *components: Any) -> None:
        super().__init__(*components)
        store, _, clock, _ = components
        self._former = UncheckedFormerWallets(store, self.wallets, clock)


_EVERYTHING = PolicyFile(
    "planted.cedar", '@id("planted") permit (principal, action, resource);'
)


class UncheckedSweeps(TransactionSigner):
    """
    Signs sweeps to the key that was active when they were accepted.

    Neither the ring is asked, nor the policy, which would find the same.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.policy.policy = Policy.compile(
            (*service_files({}, TenantRegistry()), _EVERYTHING)
        )

    def find_sweep_objection(self, refund: Refund) -> Objection | None:
        """Object to nothing."""
        return None

    def _find_paid_key(self, *_: object) -> None:
        """Require of no key that it is active."""


def _plant_new_nonce(ledger: Ledger) -> Build:
    class NewNonceLifecycle(Lifecycle):
        """Assigns a new nonce after "nonce too low", although one may be mined."""

        def step_all(self, moving: Sequence[Moving]) -> Sequence[Outcome]:
            outcomes = Outcomes()
            for each in moving:
                with outcomes.capture(each):
                    if Status(each.status) in {Status.SIGNED, Status.BROADCAST}:
                        self._send(each, self._chains[each.network])
                    (outcomes[each.id],) = super().step_all([each])
            return [outcomes[each.id] for each in moving]

        def _send(self, moving: Any, chain: Chain) -> None:
            for latest in self.parts.store.attempts(moving)[-1:]:
                (error,) = chain.client.broadcast_all([latest.raw])
                if isinstance(error, BroadcastRejectedError):
                    if error.reason == "nonce-too-low":
                        ledger.requeue(moving.payment.id)
                    raise StaleStateError("starts again")

    return Build(lifecycle=NewNonceLifecycle)


class OneReceiptForAll(ConfirmationTracker):
    """Confirms all payments of a batch that succeeded."""

    def _end_batch(self, in_flight: InFlight, receipt: Receipt) -> Transaction:
        batch, now = in_flight.transaction, self.clock()
        return batch.with_status(TransactionStatus.CONFIRMED, now)


class QueuesAllAgain(ConfirmationTracker):
    """Queues all payments of a batch again, as if it had reverted."""

    def _end_batch(self, in_flight: InFlight, receipt: Receipt) -> Transaction:
        batch, now = in_flight.transaction, self.clock()
        again = PaymentEnd(PaymentState.QUEUED, due_at=now)
        ends = dict.fromkeys(batch.payment_ids, again)
        return batch.with_status(TransactionStatus.FAILED, now, ends=ends)


class FailsWhatIsSkipped(ConfirmationTracker):
    """Fails a payment that is above the cap of the day."""

    def _end_batch(self, in_flight: InFlight, receipt: Receipt) -> Transaction:
        batch, now = in_flight.transaction, self.clock()
        after = super()._end_batch(in_flight, receipt)
        failed = PaymentEnd(PaymentState.FAILED, {"failure_code": "reverted"})
        ends = {
            each.id: PaymentEnd(each.state) if each.status.is_final else failed
            for each in after.payments
        }
        return batch.with_status(after.status, now, ends=ends)


class TrustingNonces(NonceManager):
    """Believes what rows say about earlier transactions of a payment."""

    def count_earlier(self, refund: Refund, chain: Chain) -> int:
        """Return how many there were."""
        return len(self._store.earlier_nonces(refund.id))


class PlannerWithoutFillers(RestorePlanner):
    """Fills no nonce."""

    def plan(self, *given: Any, **named: Any) -> RestorePlan:
        """Return the plan without its fillers."""
        plan = super().plan(*given, **named)
        wallets = [replace(wallet, fillers=()) for wallet in plan.wallets]
        return replace(plan, wallets=wallets)


def _find(
    pattern: str,
    ledger: Ledger,
    build: Build | None = None,
    *,
    likely: int = 0,
    **options: Any,
) -> int | None:
    """
    Return the seed of a schedule with a violation that begins with *pattern*.

    None is the result if no seed has one.  The seed *likely* had one when the test was
    written, so it is played first: a search may take minutes.
    """
    options = {"window": 0, **options}
    for seed in chain([likely], SEEDS):
        if _matches(pattern, play(seed, ledger, build, **options).violations):
            warn_if_stale([likely], [seed])
            return seed
    return None


def _finds(*given: Any, **options: Any) -> bool:
    """Return whether ``_find`` finds a seed."""
    return _find(*given, **options) is not None


def _matches(pattern: str, violations: Sequence[str]) -> bool:
    return any(re.match(pattern, each) for each in violations)


@pytest.mark.parametrize(
    ("plant", "errors", "likely", "options"),
    [
        (lambda _: Build(store=_overwriting), "I4", 7, {}),
        (_plant_new_nonce, f"I3|{_PAID_TWICE}", 6, {}),
        (lambda _: Build(lifecycle=EarlyBroadcastLifecycle), "I2", 3, {}),
        (lambda _: Build(network=_ONE_CONFIRMATION), "I1", 5, _UNSTABLE),
        (lambda _: Build(store=_forgetting), "G2", 56, {}),
        (lambda _: Build(store=_counting_early), "R33", 26, _NARROW),
        (_plant_early_places, "R33", 0, _NARROW),
    ],
    ids=[
        "no comparison of versions",
        "a new nonce",
        "early broadcast",
        "one confirmation",
        "only the last hash",
        "a window that is counted early",
        "a place that a broadcast frees",
    ],
)
def test_a_planted_bug_is_found(
    ledger: Ledger,
    plant: Callable[[Ledger], Build],
    errors: str,
    likely: int,
    options: dict[str, Any],
) -> None:
    """A few hundred schedules find it, and name the invariant that it breaks."""
    assert _finds(errors, ledger, plant(ledger), likely=likely, **options)


@pytest.mark.parametrize(
    ("turns", "likely", "restore"),
    [
        (("revoke",), 29, {}),
        # With the log, the restore finds what the former key has signed.
        (("rotate", "return"), 194, {**_WITHOUT_LOG, "repeats_keys": False}),
    ],
)
def test_unchecked_former_wallets_are_found(
    ledger: Ledger, turns: tuple[str, ...], likely: int, restore: dict[str, Any]
) -> None:
    """Without a check of former wallets a restored ledger pays twice."""
    build = Build(nonces=UncheckedNonces)

    options: dict[str, Any] = {"is_restored": True, **restore, "turns": turns}

    assert _finds(_PAID_TWICE, ledger, build, likely=likely, **options)


# A vault whose cap of the day is reached, and whose token refuses some recipients.
_SKIPPING: dict[str, Any] = {
    **_QUIET,
    "calm_at": 80.0,
    "is_restored": False,
    "per_batch": 3,
    "day_cap": 12_000_000,
    "blocked": 1,
}

# What is queued again and again keeps a schedule busy until its end.
_FEW: dict[str, Any] = {"requests": 2}


@pytest.mark.parametrize(
    ("build", "errors", "likely", "options"),
    [
        (Build(tracker=OneReceiptForAll), "I1", 1, {}),
        (Build(tracker=FailsWhatIsSkipped), "I1: .* was not refused", 1, {}),
        (Build(store=_overwriting), "I3|I4", 8, {"stall": 0.01, "store": 0.1}),
        (
            Build(network=_ONE_CONFIRMATION),
            "I1: .* was paid",
            11,
            {"reorg": 0.5, "drop": 0.5, "calm_at": 120.0},
        ),
        (
            Build(tracker=QueuesAllAgain, nonces=TrustingNonces),
            "I1: .* was paid .* times",
            0,
            _FEW,
        ),
    ],
    ids=[
        "one receipt for all payments",
        "a day's cap that fails a payment",
        "a payment that ends twice",
        "an end before finality",
        "a payment that was paid is queued again",
    ],
)
def test_a_planted_bug_of_batches_is_found(
    ledger: Ledger, build: Build, errors: str, likely: int, options: dict[str, Any]
) -> None:
    """A few hundred schedules with a vault find it."""
    given = {**_SKIPPING, **options}

    assert _finds(errors, ledger, build, likely=likely, **given)


def test_what_was_paid_is_not_paid_again(ledger: Ledger) -> None:
    """Also if a bug queues it again: the chain decides, and the payment waits."""
    build = Build(tracker=QueuesAllAgain)
    options = {**_SKIPPING, **_FEW}

    for seed in range(2):
        found = play(seed, ledger, build, window=0, **options).violations
        assert not _matches(_PAID_TWICE, found)
        assert _matches("G2: .* is still queued", found)


def test_a_sweep_to_a_former_key_is_found(ledger: Ledger) -> None:
    """Without a second look at the key ring, a sweep pays a revoked key."""
    turns = ("rotate", "return", "revoke and return")
    # With a device that mostly fails, a rotation happens between two tries.
    slow: dict[str, Any] = {
        "device": 0.9,
        "calm_at": 200.0,
        "requests": 2,
        "attended": True,
        "turns": turns,
        "sweeps": True,
    }
    build = Build(transaction_signer=UncheckedSweeps)

    assert _finds("O8", ledger, build, likely=1, **slow)


def test_a_restore_sees_after_a_gap(ledger: Ledger) -> None:
    """
    A node keeps a transaction that a backup lacks, after a gap that no count shows.

    If the operator does not run ``hotwallet restore``, the client requests the refund
    again, it gets the nonce of the gap, and both are mined.  If he does, nothing is
    wrong in the same schedules.
    """
    options = {**_CROWDED, **_WITHOUT_LOG}
    forgetful = {**options, "runs_restore": False}
    seed = _find(_NONCE_TWICE, ledger, likely=5, **forgetful)

    assert seed is not None
    for has_log in (False, True):
        restored = {**options, "has_log": has_log}
        assert play(seed, ledger, **restored).violations == ()


def test_a_mark_that_is_two_too_low_is_found(ledger: Ledger) -> None:
    """No filler has the nonce of the gap, and the refund gets it."""
    options = {**_WITHOUT_LOG, "mark_error": -2, "requests": 6, "spike_fee": 0.3}

    assert _finds(_NONCE_TWICE, ledger, likely=21, **options)


def test_a_log_without_signatures_is_found(ledger: Ledger) -> None:
    """A log without intents and signatures shows no nonce that was used."""

    def is_of_signature(record: Record) -> bool:
        return '"event":"digest-sign-' in record.body

    options = {**_WITHOUT_LOG, "has_log": True}

    build = Build(loses=is_of_signature)

    assert _finds(_NONCE_TWICE, ledger, build, likely=145, **options)


def test_a_restore_without_fillers_is_found(ledger: Ledger) -> None:
    """A wallet whose gaps are not filled pays nothing any more."""
    build = Build(planner=PlannerWithoutFillers)

    assert _finds("G2", ledger, build, likely=60, **_WITHOUT_LOG)
