"""Estimates the gas of what pays a refund, and bounds the gas limit that is signed."""

from signer.chain.chain import Chain
from signer.chain.fees import add_gas_margin
from signer.errors import ExecutionRevertedError, GasLimitError, InsufficientFundsError
from signer.model.payment import PaymentPurpose
from signer.model.refund import Refund
from signer.model.transaction import TransactionKind
from signer.ports.chain import Call
from signer.refunds.payload import find_vault, transfer_of
from signer.refunds.payment_checks import NOOP_GAS, max_gas


def build_call(refund: Refund, chain: Chain, sender: str) -> Call:
    """Return the call that pays the refund, as *sender* or its vault would make it."""
    payload = transfer_of(refund)
    holder = find_vault(refund, chain.network) or sender
    return Call(holder, payload.to, payload.data, payload.value)


def estimate_gas(refund: Refund, chain: Chain, sender: str) -> int:
    """
    Return the gas that the transfer or call would use; a sweep of coin has a constant.

    Raises:
        ExecutionRevertedError: The contract refuses it.
        InsufficientFundsError: *sender* holds less of the asset than the refund.
    """
    if refund.kind is TransactionKind.COIN:
        return NOOP_GAS
    if refund.kind is TransactionKind.CALL:
        require_funds(refund, chain, sender)  # Nodes do not estimate without the coin.
    try:
        return chain.client.estimate_gas(build_call(refund, chain, sender))
    except ExecutionRevertedError as e:
        require_funds(refund, chain, sender)
        raise e from None


def require_funds(refund: Refund, chain: Chain, sender: str) -> None:
    """
    Require that *sender*, or its vault, holds enough of what *refund* pays.

    A node's answer to a transfer of more is a revert, or no estimate.

    An empty wallet can be topped up; any other refusal of the token is final.

    Raises:
        InsufficientFundsError: It holds less than the refund.
    """
    if refund.purpose is PaymentPurpose.SWEEP:
        return  # A sweep does not wait for more of the token.
    holder = find_vault(refund, chain.network) or sender
    if refund.kind is TransactionKind.CALL:
        balance = chain.client.balance(holder) if refund.amount else 0
    else:
        balance = chain.token_balance(refund.token_address, holder)
    if balance < refund.amount:
        raise InsufficientFundsError(
            f"{holder} holds less {refund.token} than the refund: top it up"
        )


def bound_gas(estimate: int, refund: Refund, chain: Chain) -> int:
    """
    Return the gas limit for *estimate*, within ``max_gas``.

    Raises:
        GasLimitError: The estimate is above that.
    """
    if refund.kind is TransactionKind.COIN:
        return estimate
    largest = max_gas(refund, chain.network)
    if estimate > largest:
        is_call = refund.kind is TransactionKind.CALL
        what = "the call" if is_call else f"a transfer of {refund.token}"
        raise GasLimitError(
            f"{what} would need {estimate} gas, and its max_gas is {largest}: check the"
            " nodes, or raise it in the networks file"
        )
    return min(add_gas_margin(estimate), largest)
