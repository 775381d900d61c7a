"""
Decides which requests are accepted, and which transactions may be signed.

``admit`` checks the gateway's request.  The ``check_*`` functions compare a transaction
with its refund before it is signed, and trust no earlier decision.  All are pure
functions.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from signer.amounts import COIN_DECIMALS, parse_units
from signer.chain.erc20 import decode_transfer
from signer.chain.vault import ITEM_GAS, Item, batch_gas, decode_pay
from signer.config.networks import GWEI, TOKEN_FEES, Network, Token
from signer.config.tenants import NO_LIMITS, Tenant
from signer.crypto.transaction_json import read_data
from signer.crypto.transactions import (
    MAX_GAS,
    AnyTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
)
from signer.crypto.transactions.fields import is_address
from signer.errors import InvalidInputError, PolicyViolationError
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import AS_REQUESTED, COIN_ADDRESS, Refund, RefundRequest
from signer.model.transaction import Transaction, TransactionKind
from signer.refunds.payload import find_vault, items_of, transfer_of


ZERO_ADDRESS = "0x" + "0" * 40

LAST_PRECOMPILE = 0xFFFF
"""The addresses up to here are precompiled contracts on some chain: none has a key."""

MAX_CALLDATA = 16 * 1024
"""The most bytes of a call's calldata: several audit records have it in hex."""

# The only types that a refund's attempts have where fees are paid in coin.
_TYPES = {LegacyTransaction.type, DynamicFeeTransaction.type}

# A new refund is due at once, also for a worker whose clock is a little slow.
_CLOCK_TOLERANCE = timedelta(seconds=1)


def admit(
    request: RefundRequest,
    *,
    refund_id: str,
    tenant: str,
    idempotency_key: str,
    networks: Mapping[str, Network],
    wallets: Collection[str],
    now: datetime,
    limits: Tenant = NO_LIMITS,
) -> Refund:
    """
    Return the new refund of *request*, before rules may let it wait for an approval.

    *wallets* are the hot wallet's own addresses, which may not be recipients.  *limits*
    are those of the *tenant*.  About a call, only the policy can decide.

    Raises:
        InvalidInputError: Amount, recipient or calldata is malformed, or the recipient
            may not be paid.
        PolicyViolationError: Network, token or amount is not allowed (``rule``).
    """
    network = networks.get(request.network)
    if network is None:
        raise PolicyViolationError("the network is not configured", rule="network")
    calldata = None
    purpose = PaymentPurpose.REFUND
    if request.calldata is None:
        token = network.tokens.get(request.token)
        if token is None:
            raise PolicyViolationError(
                "the token is not configured on this network", rule="token"
            )
        asset = token.address, token.decimals
        amount = parse_units(request.amount, token.decimals)
        _check_recipient(request.recipient, network, wallets)
        _check_amount(amount, request, token, limits)
    else:
        asset = COIN_ADDRESS, COIN_DECIMALS
        amount = parse_units(request.amount, COIN_DECIMALS, may_be_zero=True)
        _require_address(request.recipient)
        calldata = _read_calldata(request.calldata)
        purpose = PaymentPurpose.CALL
    token_address, decimals = asset
    requested = {name: getattr(request, name) for name in AS_REQUESTED}
    return Refund(
        id=refund_id,
        tenant=tenant,
        idempotency_key=idempotency_key,
        fingerprint=request.fingerprint(),
        chain_id=network.chain_id,
        token_address=token_address,
        decimals=decimals,
        amount=amount,
        state=PaymentState.QUEUED,
        created_at=now,
        updated_at=now,
        due_at=_find_due_time(now, 0 if calldata else network.batch_wait),
        calldata=calldata,
        purpose=purpose,
        **requested,
    )


def _find_due_time(now: datetime, wait: int) -> datetime:
    """
    Return when a new refund is due; with *wait*, at the end of its span of so long.

    All that are accepted in one span of these seconds are due together.
    """
    if not wait:
        return now - _CLOCK_TOLERANCE
    seconds = math.ceil(now.timestamp() / wait) * wait
    return datetime.fromtimestamp(seconds, now.tzinfo)


def find_violation(refund: Refund, network: Network) -> PolicyViolationError | None:
    """
    Return why today's configuration does not allow *refund*; None if it does.

    The row may be older than the configuration, or another party may have changed it.
    ``rule`` is ``chain-id`` or ``token`` if the row has another chain or contract than
    the configuration, ``recipient`` if that is the vault, ``max-amount``, or ``gas`` if
    the gas limit is above the token's ``max_gas``.  A sweep moves the whole balance,
    and has no largest amount.
    ``min_amount`` is checked by ``admit`` only: a small refund that was accepted costs
    gas, which has its own limit, and to withhold it would break a promise to a
    customer.
    """
    if refund.chain_id != network.chain_id:
        message = f"the refund's chain-id is not that of the network {refund.network}"
        return PolicyViolationError(message, rule="chain-id")
    if refund.kind in {TransactionKind.CALL, TransactionKind.COIN}:
        return None
    token = network.tokens.get(refund.token)
    row = (refund.token_address, refund.decimals)
    if token is None or row != (token.address, token.decimals):
        message = f"the networks file has another contract as {refund.token}, or none"
        return PolicyViolationError(message, rule="token")
    return _find_excess(refund, token, network)


def _find_excess(
    refund: Refund, token: Token, network: Network
) -> PolicyViolationError | None:
    if refund.recipient == network.vault:
        message = "the recipient is the vault that pays"
        return PolicyViolationError(message, rule="recipient")
    largest = parse_units(token.max_amount, token.decimals)
    if refund.purpose is PaymentPurpose.REFUND and refund.amount > largest:
        message = f"one refund may pay at most {token.max_amount} {refund.token}"
        return PolicyViolationError(message, rule="max-amount")
    is_alone = refund.transaction is None or refund.transaction.vault is None
    if is_alone and (refund.gas_limit or 0) > token.max_gas:
        message = f"the gas limit is above {token.max_gas}, the token's max_gas"
        return PolicyViolationError(message, rule="gas")
    return None


def max_gas(refund: Refund, network: Network) -> int:
    """
    Return the largest gas limit of what pays *refund*, whose token is configured.

    A call has that of the token which it calls, or that of any transaction (EIP-7825).
    A vault gives an item less than some tokens may use.
    """
    if refund.kind is not TransactionKind.CALL:
        largest = network.tokens[refund.token].max_gas
        is_item = find_vault(refund, network) is not None
        return min(largest, ITEM_GAS) if is_item else largest
    called = (
        token.max_gas
        for token in network.tokens.values()
        if token.address == refund.recipient
    )
    return next(called, MAX_GAS)


def check_transfer(
    transaction: AnyTransaction, refund: Refund, network: Network, *, gas: int
) -> None:
    """
    Compare a token transfer with its refund, field by field.

    *gas* is the gas limit of this attempt, which is at most the token's ``max_gas``.
    Another attempt of the same nonce may have had another one.

    Raises:
        EncodingError: The calldata is not a ``transfer``.
        PolicyViolationError: ``rule`` names the first field that differs; or today's
            configuration does not allow the refund.
    """
    violation = find_violation(refund, network)
    if violation is not None:
        raise violation
    recipient, amount, memo = decode_transfer(transaction.data)
    _require(
        transaction,
        refund,
        network,
        token=transaction.to == refund.token_address,
        recipient=recipient == refund.recipient.lower(),
        amount=amount == refund.amount,
        memo=memo == refund.memo,
        gas=transaction.gas == gas <= network.tokens[refund.token].max_gas,
    )


def check_batch(
    transaction: AnyTransaction, batch: Transaction, network: Network, *, gas: int
) -> None:
    """
    Compare a call of ``pay`` with the payments of *batch*, item by item.

    *gas* is the gas limit of this attempt.  Raises as ``check_transfer``;
    ``EncodingError`` if the calldata is not exactly one of ``pay``.
    """
    for payment in batch.payments:
        violation = find_violation(payment, network)
        if violation is not None:
            raise violation
    token, items = decode_pay(transaction.data)
    purposes = {each.purpose for each in batch.payments}
    tokens = {each.token_address.lower() for each in batch.payments}
    largest = [max_gas(each, network) for each in batch.payments]
    _require(
        transaction,
        batch,
        network,
        vault=transaction.to == batch.vault == network.vault,
        purpose=purposes == {PaymentPurpose.REFUND},
        token={token} == tokens,
        items=list(items) == [_lower(each) for each in items_of(batch)],
        gas=transaction.gas == gas <= batch_gas(largest),
    )


def _lower(item: Item) -> Item:
    return replace(item, recipient=item.recipient.lower())


def check_noop(
    transaction: AnyTransaction, reserved: Transaction, network: Network
) -> None:
    """Check that a transaction only consumes a nonce; raises as ``check_transfer``."""
    _require(
        transaction,
        reserved,
        network,
        recipient=transaction.to == reserved.sender,
        calldata=transaction.data == b"",
        gas=transaction.gas == network.noop_gas,
    )


def check_coin(transaction: AnyTransaction, refund: Refund, network: Network) -> None:
    """Compare a transfer of the coin with its sweep; raises as ``check_transfer``."""
    _require(
        transaction,
        refund,
        network,
        value=transaction.value == refund.amount,
        recipient=transaction.to == refund.recipient,
        calldata=transaction.data == b"",
        gas=transaction.gas == refund.gas_limit,
    )


def check_call(
    transaction: AnyTransaction, refund: Refund, network: Network, *, gas: int
) -> None:
    """Compare a transaction with the call that it makes; as ``check_transfer``."""
    payload = transfer_of(refund)
    _require(
        transaction,
        refund,
        network,
        recipient=transaction.to == payload.to,
        value=transaction.value == payload.value,
        calldata=transaction.data == payload.data,
        gas=transaction.gas == gas <= max_gas(refund, network),
    )


def _require(
    transaction: AnyTransaction,
    paying: Refund | Transaction,
    network: Network,
    **rules: bool,
) -> None:
    """Require what every transaction must fulfil, and *rules*."""
    cap = network.max_fee_per_gas_gwei * GWEI
    chain_ids = {each.chain_id for each in (transaction, paying, *paying.payments)}
    common = {
        "transaction-type": _pays_fees(transaction, network),
        "access-list": transaction.access_list == (),
        "chain-id": chain_ids == {network.chain_id},
        "nonce": transaction.nonce == paying.nonce,
        "value": transaction.value == 0,
        "max-fee": transaction.max_fee_per_gas <= cap,
        "max-gas": transaction.gas <= MAX_GAS,
    }
    for rule, holds in (common | rules).items():
        if not holds:
            raise PolicyViolationError(
                f"the transaction's {rule} does not match its refund", rule=rule
            )


def _pays_fees(transaction: AnyTransaction, network: Network) -> bool:
    """Return whether *transaction* pays its fee as *network* does."""
    if network.fee_token is None:
        return transaction.type in _TYPES
    return (
        transaction.type == TOKEN_FEES[network.fees]
        and getattr(transaction, "fee_token", None) == network.fee_token.address
    )


def _require_address(recipient: str) -> None:
    if not is_address(recipient):
        raise InvalidInputError(
            "must be a 20-byte address with its EIP-55 checksum", field="recipient"
        )


def _read_calldata(text: str) -> bytes:
    calldata = read_data(text, "data")
    if len(calldata) > MAX_CALLDATA:
        raise InvalidInputError(f"must have at most {MAX_CALLDATA} bytes", field="data")
    return calldata


def _check_amount(
    amount: int, request: RefundRequest, token: Token, tenant: Tenant
) -> None:
    limits = tenant.token_limits(request.network, request.token)
    for largest in (token.max_amount, limits.max_amount):
        if largest is not None and amount > parse_units(largest, token.decimals):
            raise PolicyViolationError(
                f"one refund may pay at most {largest} {request.token}",
                rule="max-amount",
            )
    for smallest in (token.min_amount, limits.min_amount):
        if smallest is not None and amount < parse_units(smallest, token.decimals):
            raise PolicyViolationError(
                f"one refund must pay at least {smallest} {request.token}",
                rule="min-amount",
            )


def _check_recipient(
    recipient: str, network: Network, wallets: Collection[str]
) -> None:
    _require_address(recipient)
    if 0 < int(recipient, 16) <= LAST_PRECOMPILE:
        raise InvalidInputError(
            "must not be a precompiled contract (an address up to 0xffff): it could not"
            " pay the tokens out",
            field="recipient",
        )
    tokens = (token.address for token in network.tokens.values())
    for forbidden, whose in (
        (ZERO_ADDRESS, "the zero address"),
        *((wallet, "the hot wallet itself") for wallet in wallets),
        *((address, "a token's own contract") for address in tokens),
        *(((network.vault, "the vault that pays"),) if network.vault else ()),
    ):
        if recipient.lower() == forbidden.lower():
            raise InvalidInputError(f"must not be {whose}", field="recipient")
