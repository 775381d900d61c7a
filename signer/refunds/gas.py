"""Estimates the gas of a refund's transfer, and bounds the gas limit that is signed."""

from signer.chain.chain import Chain
from signer.chain.fees import add_gas_margin
from signer.errors import ExecutionRevertedError, GasLimitError, InsufficientFundsError
from signer.model.refund import Refund
from signer.ports import Call
from signer.refunds.policy import NOOP_GAS
from signer.refunds.transaction_signer import encode_refund


def build_call(refund: Refund, sender: str) -> Call:
    """Return the call of the refund's transfer, as *sender* would make it."""
    return Call(sender, refund.token_address, encode_refund(refund))


def estimate_gas(refund: Refund, chain: Chain, sender: str) -> int:
    """
    Return the gas that the transfer would use now; a coin transfer's is constant.

    Raises:
        ExecutionRevertedError: The token refuses the transfer.
        InsufficientFundsError: *sender* holds less of the token than the refund.
    """
    if refund.is_coin:
        return NOOP_GAS
    try:
        return chain.client.estimate_gas(build_call(refund, sender))
    except ExecutionRevertedError as e:
        require_funds(refund, chain, sender)
        raise e from None


def require_funds(refund: Refund, chain: Chain, sender: str) -> None:
    """
    Require that *sender* holds enough of the token, after its transfer was reverted.

    An empty wallet can be topped up; any other refusal of the token is final.

    Raises:
        InsufficientFundsError: It holds less than the refund.
    """
    if refund.swept_from is not None:
        return  # A sweep does not wait for more of the token.
    if chain.token_balance(refund.token_address, sender) < refund.amount:
        raise InsufficientFundsError(
            f"{sender} holds less {refund.token} than the refund: top it up"
        )


def bound_gas(estimate: int, refund: Refund, chain: Chain) -> int:
    """
    Return the gas limit for *estimate*, within the token's ``max_gas``.

    Raises:
        GasLimitError: The estimate is above ``max_gas``.
    """
    if refund.is_coin:
        return estimate
    largest = chain.network.tokens[refund.token].max_gas
    if estimate > largest:
        raise GasLimitError(
            f"a transfer of {refund.token} would need {estimate} gas, and its max_gas"
            f" is {largest}: check the nodes, or raise it in the networks file"
        )
    return min(add_gas_margin(estimate), largest)
