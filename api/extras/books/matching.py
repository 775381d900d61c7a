"""Compares one used nonce of a wallet with its rows: pure rules."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from api.extras.books.entries import (
    NO_NONCE,
    Assets,
    Code,
    Difference,
    Outflow,
    UsedNonce,
)
from api.extras.books.tables import NonceEntry
from signer.chain.vault import PAY
from signer.model.payment import PaymentPurpose
from signer.model.refund import COIN_ADDRESS, Refund, Status
from signer.model.transaction import Kind, Transaction
from signer.ports.chain import Settled
from signer.refunds.nonce_checks import paid_earlier
from signer.refunds.sweep_policy import build_objection


@dataclass(eq=False, repr=False)
class Matcher:
    """
    Finds the differences of the used nonces of one network, which may have *vaults*.

    *is_late* returns whether a block is so old that the ledger should know its refunds;
    *is_authentic* whether the row of a refund or a filler is what this service stored.
    """

    network: str
    assets: Assets
    vaults: Collection[str]
    _: KW_ONLY
    is_late: Callable[[int], bool]
    is_authentic: Callable[[Refund | Transaction], bool]

    def compare(self, used: UsedNonce) -> Iterator[Difference]:
        """Yield the differences, but not those that ``explain_memo`` decides."""
        entry = used.entry
        row = entry.batch or entry.row
        if row is not None and not self.is_authentic(row):
            # What a changed row says is not compared.
            yield self._changed(used, _name(entry))
        elif used.is_own and used.settled is not None:
            yield from self._compare_fee(used, used.settled)
            if entry.refund is not None:
                yield from self._compare_own(used, entry.refund, used.settled)
            else:
                yield from self._compare_filler(used, used.settled)
        else:
            yield from self._compare_holder(used)
            yield from self._compare_other(used)

    def explain_memo(
        self, used: UsedNonce, refund: Refund | None
    ) -> Iterator[Difference]:
        """Yield the differences of a payment whose memo is that of *refund*."""
        settled = used.settled
        if refund and settled and _ended_as_paid_by(settled.tx_hash, refund):
            # A restored ledger had no refund at the nonce, but perhaps a filler.
            used = replace(used, entry=replace(used.entry, refund=refund))
            if self.is_authentic(refund):
                yield from self._compare_payments(used, refund, is_noop=False)
            else:
                yield self._changed(used, "refund")
            return
        for payment in used.payments:
            if refund is None:
                yield self._without_refund(used, payment)
                continue
            code, detail = _OF_STATUS.get(refund.status, _PAID_OPEN)
            yield self._build(
                code,
                used,
                detail,
                found=payment,
                refund_id=refund.id,
                expected=refund.tx_hash,
            )

    def compare_claim(self, wallet: str, entry: NonceEntry) -> Iterator[Difference]:
        """Yield the difference of an *entry* whose nonce was not used."""
        if entry.row is not None and entry.status is Status.CONFIRMED:
            yield self._missing(UsedNonce(wallet, entry, None), entry.row)

    def _compare_fee(self, used: UsedNonce, settled: Settled) -> Iterator[Difference]:
        attempt = used.attempt
        is_above = attempt is not None and settled.execution_fee > attempt.most_fee
        if attempt is not None and is_above and used.has_fee:
            yield self._build(
                Code.FEE_MISMATCH,
                used,
                "the fee is above what the stored transaction offers, in wei",
                expected=f"at most {attempt.most_fee}",
                found=str(settled.execution_fee),
            )

    def _compare_own(
        self, used: UsedNonce, refund: Refund, settled: Settled
    ) -> Iterator[Difference]:
        attempt = used.attempt
        if not (refund.status.is_final or self.is_late(settled.block.number)):
            return  # A worker will decide it.
        is_noop = attempt is not None and attempt.kind is Kind.NOOP
        is_call = refund.purpose is PaymentPurpose.CALL
        compare = self._compare_call if is_call else self._compare_payments
        found = [*compare(used, refund, is_noop=is_noop)]
        yield from found or self._compare_status(used, refund, settled)

    def _compare_filler(
        self, used: UsedNonce, settled: Settled
    ) -> Iterator[Difference]:
        """Yield what a filler paid, which is nothing, or that it is still open."""
        yield from (self._without_refund(used, each) for each in used.payments)
        status = used.entry.status
        is_open = status is not None and not status.is_final
        if is_open and self.is_late(settled.block.number):
            yield self._open(used)

    def _compare_call(
        self, used: UsedNonce, refund: Refund, *, is_noop: bool
    ) -> Iterator[Difference]:
        """
        Yield how the status of a call differs from what became of its transaction.

        What a permitted call moves is what it was permitted for: no difference.
        """
        is_made = used.settled is not None and used.settled.succeeded and not is_noop
        if refund.status is Status.CONFIRMED and not is_made:
            detail = _describe_unpaid(used, is_noop=is_noop)
            code = Code.REFUND_WITHOUT_TRANSFER
            yield self._build(code, used, detail, asset=refund.token)
        elif refund.status is Status.FAILED and is_made:
            detail = "the call was executed, and its refund is failed"
            yield self._build(Code.REFUSED_BUT_PAID, used, detail, asset=refund.token)

    def _compare_payments(
        self, used: UsedNonce, refund: Refund, *, is_noop: bool
    ) -> Iterator[Difference]:
        """Yield how the payments differ from the one that *refund* asks for."""
        asked = Outflow(refund.token_address, refund.recipient, refund.amount)
        rest = list(used.payments)
        if asked in rest:
            rest.remove(asked)
        elif rest and not is_noop:
            closest = max(rest, key=lambda each: _similarity(each, asked))
            rest.remove(closest)
            code, detail = _explain_wrong(closest, asked)
            yield self._build(code, used, detail, expected=asked, found=closest)
        elif refund.status is Status.CONFIRMED:
            detail = _describe_unpaid(used, is_noop=is_noop)
            yield self._build(
                Code.REFUND_WITHOUT_TRANSFER, used, detail, expected=asked
            )
        for extra in rest:
            if extra == asked:
                detail = "one transaction moved the amount more than once"
                yield self._build(Code.PAID_TWICE, used, detail, found=extra)
            else:
                yield self._without_refund(used, extra)

    def _compare_status(
        self, used: UsedNonce, refund: Refund, settled: Settled
    ) -> Iterator[Difference]:
        """Yield how the row's status differs from what was, or was not, paid."""
        is_call = refund.purpose is PaymentPurpose.CALL
        if not refund.status.is_final:
            yield self._open(used)
        elif refund.status is Status.FAILED and used.payments and not is_call:
            detail = "the recipient of a failed refund was paid"
            paid = used.payments[0]
            yield self._build(Code.REFUSED_BUT_PAID, used, detail, found=paid)
        elif refund.status is Status.CONFIRMED:
            recorded = refund.transaction
            block = settled.block
            if recorded is None or (
                (recorded.tx_hash, recorded.block_number, recorded.block_hash)
                != (settled.tx_hash, block.number, block.hash)
            ):
                yield self._build(
                    Code.WRONG_BLOCK,
                    used,
                    "it was paid, by another transaction or in another block than the"
                    " ledger records",
                    expected=f"{refund.tx_hash} in block {refund.block_number}",
                    found=f"{settled.tx_hash} in block {block.number}",
                )

    def _compare_holder(self, used: UsedNonce) -> Iterator[Difference]:
        """Yield the difference of a row whose nonce another transaction used."""
        row, status, settled = used.entry.row, used.entry.status, used.settled
        if row is None or status is None:
            return
        if status is Status.CONFIRMED:
            yield self._missing(used, row)
        elif not status.is_final and (
            settled is None or self.is_late(settled.block.number)
        ):
            yield self._open(used)

    def _compare_other(self, used: UsedNonce) -> Iterator[Difference]:
        """Yield the differences of a transaction that is not of the nonce's refund."""
        seen = used.entry.unrecorded
        if seen is not None and not seen.is_authentic:
            detail = "another program changed the row (`unrecorded_transactions`)"
            yield self._build(Code.ROW_CHANGED, used, detail)
        elif used.precedes_ledger or used.is_accepted:
            return
        elif used.payments:
            # Those with a memo are compared with the refunds that may have it.
            if used.memo is None:
                yield from (self._without_refund(used, each) for each in used.payments)
        elif seen is None:
            detail = "the ledger has no transaction that used this nonce"
            yield self._build(Code.UNKNOWN_TRANSACTION, used, detail)
        elif seen.is_unaccepted:
            detail = (
                "no operator has accepted this transaction (`hotwallet nonce repair`)"
            )
            yield self._build(Code.FOREIGN_TRANSACTION, used, detail)

    def _without_refund(self, used: UsedNonce, payment: Outflow) -> Difference:
        is_coin = payment.asset == COIN_ADDRESS
        code = Code.COIN_WITHOUT_REFUND if is_coin else Code.TRANSFER_WITHOUT_REFUND
        detail = "no refund, sweep or accepted transaction explains this payment"
        settled = used.settled
        if used.wallet in self.vaults and settled is not None:
            code, detail = _explain_vault(settled, used.wallet)
        return self._build(code, used, detail, found=payment)

    def _changed(self, used: UsedNonce, name: str) -> Difference:
        detail = f"another program changed the {name}'s row"
        return self._build(Code.ROW_CHANGED, used, detail)

    def _missing(self, used: UsedNonce, row: Refund | Transaction) -> Difference:
        return self._build(
            Code.CONFIRMED_BUT_MISSING,
            used,
            "the chain does not have the transaction of a confirmed refund or filler",
            expected=f"{row.tx_hash} in block {row.block_number}",
        )

    def _open(self, used: UsedNonce) -> Difference:
        return self._build(
            Code.MINED_BUT_OPEN,
            used,
            "its nonce has been used for over an hour, and the ledger still has it"
            " open: run a worker",
        )

    def _build(
        self, code: Code, used: UsedNonce, detail: str, **given: Outflow | str | None
    ) -> Difference:
        """Return a difference; its asset is that of a payment in *given*."""
        refund, settled = used.entry.refund, used.settled
        fields: dict[str, Any] = {
            "refund_id": None if refund is None else refund.id,
            "tx_hash": None if settled is None else settled.tx_hash,
            # A transfer by another account has no nonce of the wallet.
            "nonce": used.entry.nonce if used.entry.nonce != NO_NONCE else None,
        }
        for name, value in given.items():
            if isinstance(value, Outflow):
                amount = self.assets.format(value.asset, value.amount)
                fields[name] = f"{amount} to {value.recipient}"
                fields["asset"] = self.assets[value.asset].symbol
            else:
                fields[name] = value
        return Difference(code, self.network, used.wallet, detail, **fields)


def _name(entry: NonceEntry) -> str:
    if entry.refund:
        return "refund"
    return "batch" if entry.batch else "filler"


def _explain_vault(settled: Settled, vault: str) -> tuple[Code, str]:
    """Return what moved tokens out of *vault* that is no transaction of our wallets."""
    sender = settled.sender
    if settled.to == vault and settled.data.startswith(PAY):
        detail = f"an operator that is no key of ours, {sender}, paid out of the vault"
        return Code.OTHER_OPERATOR, detail
    detail = f"{sender} took it out of the vault, as its guardian may"
    return Code.VAULT_WITHDRAWAL, detail


_PAID_OPEN = (
    Code.MINED_BUT_OPEN,
    "a transaction that the ledger does not know paid a refund that is open",
)

_OF_STATUS = {
    Status.CONFIRMED: (
        Code.PAID_TWICE,
        "a second transaction, with another nonce, paid the refund again",
    ),
    **dict.fromkeys(
        (Status.REFUSED, Status.CANCELLED, Status.FAILED),
        (
            Code.REFUSED_BUT_PAID,
            "the recipient of a refused, cancelled or failed refund was paid",
        ),
    ),
}


def _ended_as_paid_by(tx_hash: str, refund: Refund) -> bool:
    end = build_objection(refund.failure_code or "", refund.failure_detail or "")
    return end == paid_earlier(tx_hash)


def _similarity(payment: Outflow, asked: Outflow) -> tuple[bool, bool, bool]:
    return (
        payment.recipient == asked.recipient,
        payment.asset == asked.asset,
        payment.amount == asked.amount,
    )


def _explain_wrong(found: Outflow, asked: Outflow) -> tuple[Code, str]:
    if found.asset != asked.asset:
        return Code.WRONG_TOKEN, "another token was paid"
    if found.recipient != asked.recipient:
        return Code.WRONG_RECIPIENT, "another address was paid"
    return Code.WRONG_AMOUNT, "another amount was paid"


def _describe_unpaid(used: UsedNonce, *, is_noop: bool) -> str:
    if is_noop:
        return "its nonce was used by a cancellation, which pays nothing"
    if used.settled is not None and not used.settled.succeeded:
        return "its transaction reverted"
    return "its transaction has no Transfer of the token"
