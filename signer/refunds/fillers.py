"""
Fillers: no-ops for nonces that a restored ledger does not know.

A transaction that the ledger has forgotten may wait in a node's pool, above a gap that
no count shows.  A filler has such a nonce, and signs a no-op for it.  So either the
forgotten transaction is mined or the no-op, and both are seen before anything new is
paid.
"""

from collections.abc import Sequence
from datetime import datetime

from signer.chain.chain import Chain
from signer.errors import KeyUnusableError, StaleStateError
from signer.model.refund import (
    COIN,
    COIN_ADDRESS,
    OPERATOR,
    PaymentPurpose,
    PaymentState,
    Refund,
    RefundRequest,
    Status,
    new_refund_id,
)
from signer.model.transaction import Kind
from signer.model.wallet import Wallet
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.attempts import Attempts
from signer.refunds.nonces import NonceManager
from signer.refunds.payment_checks import NOOP_GAS
from signer.refunds.pending_transactions import PendingTransactions
from signer.refunds.saved_steps import SavedSteps
from signer.refunds.step_outcomes import Outcomes
from signer.refunds.sweep_policy import build_objection


_DECIMALS = 18

_FILLED = build_objection(
    "nonce-filled", "a no-op consumes a nonce that the restored ledger does not know"
)


def filler_name(wallet: Wallet, nonce: int) -> str:
    """Return the reference and idempotency key of the filler for *nonce*."""
    # It is unique: a nonce gets one filler, however often it is asked for.
    return f"{wallet.sender}/{wallet.chain_id}/{nonce}"


def build_filler(network: str, wallet: Wallet, nonce: int, now: datetime) -> Refund:
    """Return a queued filler for *nonce* of *wallet*, which is on *network*."""
    address, name = wallet.sender, filler_name(wallet, nonce)
    request = RefundRequest(
        payment_session_id=PaymentPurpose.FILLER,
        reference=name,
        network=network,
        token=COIN,
        recipient=address,
        amount="",
    )
    return Refund(
        id=new_refund_id(now),
        tenant=OPERATOR,
        idempotency_key=name,
        fingerprint=request.fingerprint(),
        reference=name,
        payment_session_id=request.payment_session_id,
        network=network,
        chain_id=wallet.chain_id,
        token=COIN,
        token_address=COIN_ADDRESS,
        decimals=_DECIMALS,
        recipient=address,
        amount=1,  # The schema allows no zero; it is never paid.
        reason="restore",
        state=PaymentState.QUEUED,
        created_at=now,
        updated_at=now,
        due_at=now,
        purpose=PaymentPurpose.FILLER,
        bound_sender=address,
    )


class Fillers:
    """Takes the steps of fillers up to their first signature."""

    def __init__(
        self,
        store: Ledger,
        nonces: NonceManager,
        *,
        attempts: Attempts,
        pending: PendingTransactions,
        clock: Clock,
    ) -> None:
        self._store = store
        self._nonces = nonces
        self._attempts = attempts
        self._pending = pending
        self._clock = clock
        self._saved_steps = SavedSteps(store, clock)

    def hold(self, fillers: Sequence[Refund], chain: Chain, outcomes: Outcomes) -> None:
        """
        Give each of the queued *fillers* its nonce.

        A filler ends if another row has the nonce, or if its key may not sign.
        """
        for filler in fillers:
            with outcomes.capture(filler):
                outcomes[filler.id] = self._hold(filler)

    def sign(self, fillers: Sequence[Refund], chain: Chain, outcomes: Outcomes) -> None:
        """Sign a no-op for the nonce of each of *fillers*, unless the nonce is used."""
        for filler in fillers:
            with outcomes.capture(filler):
                outcomes[filler.id] = self._pending.handle_used_nonce(
                    filler, chain
                ) or self._attempts.start(filler, chain, Kind.NOOP, **_FILLED)

    def _hold(self, filler: Refund) -> Refund:
        address, _, nonce = filler.reference.split("/")
        try:
            held = filler.assigned(
                filler.draft_transaction(
                    self._clock(),
                    sender=address,
                    key_id=self._nonces.signing_key_id(address),
                    nonce=int(nonce),
                    gas_limit=NOOP_GAS,
                )
            )
            return self._store.adopt(filler, held)
        except KeyUnusableError as e:
            objection = build_objection("key-unusable", str(e))
        except StaleStateError:
            if self._store.get(filler.id) != filler:
                raise  # Another process took the step.
            objection = build_objection("nonce-held", "another row has the nonce")
        return self._saved_steps.move(filler, Status.REFUSED, **objection)
