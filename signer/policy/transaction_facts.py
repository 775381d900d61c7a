"""Makes the facts about a transaction from its decoded bytes."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from signer.chain.calldata import DecodedCall, decode_call
from signer.chain.erc20 import TRANSFER, as_transfer, decode_transfer
from signer.chain.vault import PAY
from signer.config.networks import NOOP_GAS
from signer.crypto.transactions import MAX_GAS, AnyTransaction
from signer.errors import EncodingError
from signer.policy.amount_limits import compare_amount
from signer.policy.facts import (
    Calldata,
    KnownToken,
    Path,
    RecipientKind,
    Shape,
    Surroundings,
    TransactionFacts,
)
from signer.policy.rules import APPROVE_ABOVE


TRANSFER_SIGNATURE = "transfer(address,uint256)"

_ZERO = "0x" + "0" * 40

_SELECTOR_SIZE = 4
_TRANSFER_SIZE = _SELECTOR_SIZE + 2 * 32

_ALLOWANCES = frozenset(
    {
        "allow",
        "approve",
        "approveAndCall",
        "approveDelegation",
        "authorizeOperator",
        "increaseAllowance",
        "increaseApproval",
        "permit",
        "setApprovalForAll",
        "setAuthorization",
        "setPreSignature",
        "setRelayerApproval",
    }
)

_MAX_NESTING = 4
"""Levels of ``multicall``: each is decoded again, so many would take long."""

# An allowance is bounded by the rule of an operator that permits it.
_AMOUNTS = {
    "transfer": frozenset({"max-amount", "min-amount", APPROVE_ABOVE}),
    "transferAndCall": frozenset({"max-amount"}),
    "transferFrom": frozenset({"max-amount"}),
}
"""Which limits of amounts the calls have that move tokens."""

# Checksums are for people: rules compare lower case.
_lower = lru_cache(maxsize=1024)(str.lower)


@dataclass(frozen=True, slots=True)
class _Data:
    """The calldata of a transaction, as far as it can be read."""

    call: DecodedCall | None = None
    form: Calldata = Calldata.UNKNOWN
    grants_allowance: bool = False
    named: tuple[tuple[str, Any], ...] = ()

    def argument(self, *names: str) -> Any:
        for name, value in self.named:
            if name in names:
                return value
        return None


_NO_CALL = _Data()
_MALFORMED = _Data(form=Calldata.MALFORMED)


def transaction_facts(
    transaction: AnyTransaction,
    digest: bytes,
    surroundings: Surroundings,
    memo: bytes | None = None,
) -> TransactionFacts:
    """
    Return the facts about *transaction*, whose digest is *digest*.

    *memo* is that of the refund which the path pays; None on the other paths.
    """
    network = surroundings.network
    is_on_network = network is not None and transaction.chain_id == network.chain_id
    data = _read(as_transfer(transaction.data), memo)
    to = None if transaction.to is None else _lower(transaction.to)
    token = network.tokens.get(to or "") if network is not None else None
    shape = _find_shape(transaction, data, token)
    recipient = _find_recipient(shape, to, data)
    call = data.call
    spender = data.argument("spender", "operator")
    amount = data.argument("amount") if token is not None else None
    return TransactionFacts(
        caller=surroundings.caller,
        digest=digest,
        sender=surroundings.sender,
        at=surroundings.at,
        network=network.name if network is not None and is_on_network else None,
        chain_id=transaction.chain_id,
        type=transaction.type,
        nonce=transaction.nonce,
        gas=transaction.gas,
        max_fee_per_gas=transaction.max_fee_per_gas,
        max_priority_fee_per_gas=transaction.max_priority_fee_per_gas,
        to=to,
        value=transaction.value,
        data_bytes=len(transaction.data),
        selector=_read_selector(transaction.data),
        shape=shape,
        blobs=len(getattr(transaction, "blob_versioned_hashes", ())),
        authorizations=len(getattr(transaction, "authorization_list", ())),
        access_list=len(transaction.access_list),
        function=None if call is None else call.signature,
        arguments=data.named,
        calldata=data.form,
        grants_allowance=data.grants_allowance,
        extra_bytes=0 if call is None else len(call.extra),
        token=None if token is None else token.symbol,
        decimals=None if token is None else token.decimals,
        amount=amount,
        recipient=recipient,
        recipient_kind=_classify(recipient, surroundings),
        spender=spender,
        exceeded=_find_exceeded(transaction, surroundings, token, amount, data),
        reference_price=None if token is None else token.reference_price,
        is_denied=not {recipient, spender, to}.isdisjoint(surroundings.denied),
        calls_vault=_calls_vault(transaction, to, surroundings),
        totals=surroundings.totals,
        is_service_wallet=surroundings.is_service_wallet,
    )


def _calls_vault(
    transaction: AnyTransaction, to: str | None, surroundings: Surroundings
) -> bool:
    """
    Return whether the vault is called, or another contract as if it were one.

    An account of the library has its own nonces, which no ledger reads.
    """
    network = surroundings.network
    is_vault = to is not None and network is not None and to == network.vault
    is_ours = surroundings.caller.path is not Path.ACCOUNT
    return is_vault or (is_ours and transaction.data.startswith(PAY))


def _read(data: bytes, memo: bytes | None) -> _Data:
    try:
        if data.startswith(TRANSFER):
            return _read_transfer(data, memo)
        call = decode_call(data)
        if call is None:
            return _NO_CALL
        grants_allowance = _grants(call)
    except EncodingError:
        return _MALFORMED
    form = _find_form(call.extra, memo)
    return _Data(call, form, grants_allowance, tuple(call.named().items()))


def _read_transfer(data: bytes, memo: bytes | None) -> _Data:
    """Read a transfer: refunds consist of these, and it takes a third of the time."""
    recipient, amount, _ = decode_transfer(data[:_TRANSFER_SIZE])
    extra = data[_TRANSFER_SIZE:]
    call = DecodedCall("transfer", TRANSFER_SIGNATURE, (recipient, amount), extra)
    named = (("to", recipient), ("amount", amount))
    return _Data(call, _find_form(extra, memo), named=named)


def _find_form(extra: bytes, memo: bytes | None) -> Calldata:
    if not extra:
        return Calldata.EXACT
    return Calldata.WITH_MEMO if extra == memo else Calldata.EXTRA


def _grants(call: DecodedCall, depth: int = 0) -> bool:
    """
    Return whether *call*, or one inside it, lets another address take tokens.

    Raises:
        EncodingError: A call inside is malformed, or nested deeper than any real one.
    """
    if call.name in _ALLOWANCES:
        return True
    if depth > _MAX_NESTING:
        raise EncodingError(f"calls are nested deeper than {_MAX_NESTING} levels")
    return any(
        inner is not None and _grants(inner, depth + 1) for inner in call.inner_calls()
    )


def _read_selector(data: bytes) -> str | None:
    selector = data[:_SELECTOR_SIZE]
    return f"0x{selector.hex()}" if len(selector) == _SELECTOR_SIZE else None


def _find_shape(
    transaction: AnyTransaction, data: _Data, token: KnownToken | None
) -> Shape:
    if transaction.to is None:
        return Shape.CREATION
    if not transaction.data:
        return Shape.COIN_TRANSFER if transaction.value else Shape.EMPTY
    call = data.call
    is_transfer = call is not None and call.signature == TRANSFER_SIGNATURE
    if token is not None and is_transfer and not transaction.value:
        return Shape.TOKEN_TRANSFER
    return Shape.CALL


def _find_recipient(shape: Shape, to: str | None, data: _Data) -> str | None:
    if shape in {Shape.COIN_TRANSFER, Shape.EMPTY}:
        return to
    recipient: str | None = data.argument("to")
    return recipient


def _classify(recipient: str | None, surroundings: Surroundings) -> RecipientKind:
    if recipient is None:
        return RecipientKind.NONE
    if recipient == _lower(surroundings.sender):
        return RecipientKind.SELF
    network = surroundings.network
    if network is not None and recipient == network.vault:
        return RecipientKind.OWN
    if recipient in surroundings.own.addresses:
        is_active = recipient == surroundings.own.active
        return RecipientKind.ACTIVE if is_active else RecipientKind.OWN
    if recipient == _ZERO:
        return RecipientKind.ZERO
    is_token = network is not None and recipient in network.tokens
    return RecipientKind.TOKEN if is_token else RecipientKind.OTHER


def _find_exceeded(
    transaction: AnyTransaction,
    surroundings: Surroundings,
    token: KnownToken | None,
    amount: int | None,
    data: _Data,
) -> frozenset[str]:
    """Return the names of the limits that are exceeded; compared as integers."""
    network = surroundings.network
    found = set()
    if network is not None and transaction.chain_id != network.chain_id:
        found.add("chain-id")
    if transaction.gas > _find_gas_limit(surroundings, token):
        found.add("gas")
    if network is not None and transaction.max_fee_per_gas > network.max_fee_per_gas:
        found.add("max-fee")
    call = data.call
    if network is not None and token is not None and call is not None:
        compared = _AMOUNTS.get(call.name, frozenset())
        found |= compared & compare_amount(amount or 0, token, network, surroundings)
    return frozenset(found)


def _find_gas_limit(surroundings: Surroundings, token: KnownToken | None) -> int:
    if surroundings.caller.path is Path.NOOP:
        network = surroundings.network
        return NOOP_GAS if network is None else network.noop_gas
    return MAX_GAS if token is None else token.max_gas
