"""
Sends the transfers and calls of clients that speak JSON-RPC: each becomes a refund.

A client that lost an answer repeats its request, and no client sends an idempotency
key.

With a nonce, the request is a statement about one transaction of the wallet.  The
refund's reference is made of that nonce, and the ledger accepts a reference once.  So
the same content with the same nonce is one refund at any time, and other content is
refused.  The nonce that the refund gets may be a higher one, since others pay from the
same wallet.

Without one, the same content of the same tenant within ``WINDOW_SECONDS`` is one
refund.  It is found by a key of its content and its time window.

Two requests at the edge of a window have different keys.  The key of the window before
finds an earlier one.  If both arrive at the same moment, the reference decides: its
windows are shifted by half of their length, so that the two requests share it, and the
ledger accepts a reference once.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from signer.amounts import COIN_DECIMALS, format_units
from signer.config.networks import TOKEN_FEES, Network
from signer.crypto.transaction_json import read_quantity
from signer.crypto.transactions import DynamicFeeTransaction, LegacyTransaction
from signer.errors import ConflictError, InvalidInputError, NonceUsedError
from signer.model.audit_record import Actor
from signer.model.payment import PaymentPurpose
from signer.model.refund import COIN, Refund, RefundRequest
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.outside_services import NodeProxy
from signer.refunds.service import RefundService
from signer.refunds.token_transfer import Payment, TransferRequest


WINDOW_SECONDS = 120
"""How long an equal transfer or call without an idempotency key is the same one."""

_PREFIX = "rpc-"
_DIGITS = 40


Submit = Callable[[str, str], Refund]
"""Submits a payment with an idempotency key and a reference."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A payment, who wants it, and where."""

    payment: Payment
    network: str
    tenant: str

    def name(self, *parts: object) -> str:
        """Return a key or reference for the content, which *parts* distinguish."""
        payment = self.payment
        if isinstance(payment, TransferRequest):
            content = [payment.token, payment.recipient, payment.amount]
        else:  # One more part than a transfer has.
            value, data = str(payment.value), payment.data.hex()
            content = [COIN, payment.recipient, value, data]
        return _name(*parts, self.tenant, self.network, *content)

    def name_nonce(self, nonce: int, attempt: int) -> str:
        """Return the reference of any payment with *nonce*."""
        wallet = self.network, self.payment.sender
        return _name("nonce", self.tenant, *wallet, nonce, attempt)

    def request(self, reference: str) -> RefundRequest:
        payment = self.payment
        if isinstance(payment, TransferRequest):
            token, amount, calldata = payment.token, payment.amount, None
        else:
            token, calldata = COIN, f"0x{payment.data.hex()}"
            amount = format_units(payment.value, COIN_DECIMALS)
        return RefundRequest(
            payment_session_id=reference,
            reference=reference,
            network=self.network,
            token=token,
            recipient=payment.recipient,
            amount=amount,
            calldata=calldata,
        )

    def is_paid_by(self, refund: Refund) -> bool:
        """Return whether *refund* does what is wanted."""
        payment = self.payment
        if isinstance(payment, TransferRequest):
            amount = format_units(refund.amount, refund.decimals)
            is_transfer = (
                refund.purpose is PaymentPurpose.REFUND
                and refund.token == payment.token
            )
            does_same = is_transfer and amount == payment.amount
        else:
            call = payment.value, payment.data
            does_same = (refund.amount, refund.calldata) == call
        where = refund.network, refund.recipient
        return does_same and where == (self.network, payment.recipient)

    def require_paid_by(self, refund: Refund) -> Refund:
        """Return *refund*, which has the payment's nonce or was requested with it."""
        if self.is_paid_by(refund):
            return refund
        raise NonceUsedError(
            f"nonce too low: refund {refund.id} ({refund.status}) was requested with"
            f" nonce {self.payment.nonce} or has it, and is not replaced. For another"
            " payment, send a higher nonce or none",
            refund_id=refund.id,
        )


@dataclass(eq=False, repr=False)
class TransactionSender:
    """
    Accepts transfers and calls as refunds; it signs and sends nothing.

    *nodes*, by network, count the nonces of a wallet that is not opened yet.
    """

    refunds: RefundService
    store: Ledger
    clock: Clock
    nodes: Mapping[str, NodeProxy]
    networks: Mapping[str, Network]

    def next_nonce(self, network: str, chain_id: int, sender: str) -> int:
        """Return the next nonce that the ledger assigns; queued refunds have none."""
        wallet = self.store.wallet(chain_id, sender)
        if wallet is not None:
            return wallet.next_nonce
        method = "eth_getTransactionCount"
        counted = self.nodes[network].forward(method, [sender, "pending"])
        return read_quantity(counted, method)

    def accept(
        self,
        payment: Payment,
        network: str,
        tenant: str,
        actor: Actor,
        idempotency_key: str | None = None,
    ) -> Refund:
        """
        Return the refund of *payment* on *network*: a new one, or the same one again.

        With *idempotency_key*, it is the same one if it has this key, at any time.
        Without a key, it is the same one if it has the nonce of *payment*.

        Raises:
            NonceUsedError: Another transaction has the nonce, or was asked for with it.
            InvalidInputError: The nonce is above the wallet's next one.
            HotWalletError: As ``RefundService.submit`` and ``NodeProxy.forward``.
        """
        wanted = _Wanted(payment, network, tenant)

        def submit(key: str, reference: str) -> Refund:
            accepted = self.refunds.submit(
                tenant=tenant,
                idempotency_key=key,
                request=wanted.request(reference),
                actor=actor,
            )
            return accepted.refund

        if idempotency_key is not None:
            earlier = self.store.find(tenant, idempotency_key)
            if earlier is not None and wanted.is_paid_by(earlier):
                return earlier
        if payment.nonce is not None:
            return self._accept_nonce(payment.nonce, wanted, idempotency_key, submit)
        if idempotency_key is not None:
            self._require_fees(wanted)
            return submit(idempotency_key, _name("key", tenant, idempotency_key))
        return self._accept_in_window(wanted, submit)

    def _require_fees(self, wanted: _Wanted) -> None:
        """Require that a transaction on the client's terms could be mined now."""
        payment = wanted.payment
        if payment.type is None and payment.max_price is None:
            return
        method = "eth_getBlockByNumber"
        head = self.nodes[wanted.network].forward(method, ["latest", False])
        given = head.get("baseFeePerGas") if isinstance(head, dict) else None
        base_fee = None if given is None else read_quantity(given, "baseFeePerGas")
        fees = self.networks[wanted.network].fees
        is_legacy = base_fee is None or fees == "legacy"
        in_coin = LegacyTransaction if is_legacy else DynamicFeeTransaction
        sent = TOKEN_FEES.get(fees, in_coin.type)
        if payment.type not in {None, sent}:
            raise InvalidInputError(
                f"transactions of this network are sent with the type {sent}:"
                " leave type out",
                field="type",
            )
        if payment.max_price is not None and payment.max_price < (base_fee or 1):
            raise InvalidInputError(
                "max fee per gas less than block base fee: the transaction could not be"
                f" mined for {payment.max_price}, the base fee is {base_fee or 0}."
                " Leave gasPrice and maxFeePerGas out: the worker chooses the fee",
                field="maxFeePerGas",
            )

    def _accept_nonce(
        self, nonce: int, wanted: _Wanted, key: str | None, submit: Submit
    ) -> Refund:
        attempt, tenant = 0, wanted.tenant
        reference = wanted.name_nonce(nonce, attempt)
        while asked := self.store.find_reference(tenant, reference):
            if asked.nonce is not None or not asked.status.is_final:
                return wanted.require_paid_by(asked)
            # It ended without a nonce, so another payment may have this one.
            if wanted.is_paid_by(asked) and self._is_recent(asked):
                return asked
            attempt += 1
            reference = wanted.name_nonce(nonce, attempt)
        holder = self._find_holder(nonce, wanted)
        if holder is None:
            self._require_fees(wanted)
            # The node may have taken seconds.
            holder = self._find_holder(nonce, wanted)
        if holder is not None:
            return wanted.require_paid_by(holder)
        try:
            return submit(key or reference, reference)
        except ConflictError:
            # Another process accepted a payment with this nonce at the same moment.
            racing = self.store.find_reference(tenant, reference)
            if racing is None:
                raise
            return wanted.require_paid_by(racing)

    def _find_holder(self, nonce: int, wanted: _Wanted) -> Refund | None:
        """Return the tenant's refund that has *nonce*; None if it is the next one."""
        payment, tenant = wanted.payment, wanted.tenant
        chain_id, sender = payment.chain_id, payment.sender
        following = self.next_nonce(wanted.network, chain_id, sender)
        if nonce < following:
            used = self.store.find_transaction(chain_id, sender, nonce)
            for holder in () if used is None else used.payments:
                if holder.tenant == tenant:
                    return holder
            raise NonceUsedError(
                f"nonce too low: nonce {nonce} of the wallet is used; the next one is"
                f" {following}"
            )
        if nonce > following:
            # A client may number the payments that it has queued.
            before = wanted.name_nonce(nonce - 1, 0)
            if self.store.find_reference(tenant, before) is None:
                raise InvalidInputError(
                    f"nonce too high: the next nonce of the wallet is {following}",
                    field="nonce",
                )
        return None

    def _accept_in_window(self, wanted: _Wanted, submit: Submit) -> Refund:
        now = self.clock().timestamp()
        window = int(now // WINDOW_SECONDS)
        shifted = int((now + WINDOW_SECONDS / 2) // WINDOW_SECONDS)
        key, before, after = map(wanted.name, (window, window - 1, window + 1))
        earlier = self._find(wanted.tenant, key, before)
        if earlier is not None:
            return earlier
        self._require_fees(wanted)
        try:
            return submit(key, wanted.name("reference", shifted))
        except ConflictError:
            # Another process accepted the same transfer at the same moment.
            found = self._find(wanted.tenant, key, before, after)
            if found is None:
                raise
            return found

    def _find(self, tenant: str, *keys: str) -> Refund | None:
        """Return the refund with one of *keys* whose window is not over."""
        for key in keys:
            found = self.store.find(tenant, key)
            if found is not None and self._is_recent(found):
                return found
        return None

    def _is_recent(self, refund: Refund) -> bool:
        age = (self.clock() - refund.created_at).total_seconds()
        return abs(age) < WINDOW_SECONDS


def is_derived_key(key: str) -> bool:
    """Return whether *key* has the form of the keys that are made here."""
    return key.startswith(_PREFIX)


def _name(*parts: object) -> str:
    """Return a name that visible ASCII can hold, and that no other content has."""
    text = json.dumps(["hotwallet json-rpc", *parts])
    return _PREFIX + hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
