"""
Reads a transaction that a client wants to be sent: a transfer of a token, or a call.

A transfer of a configured token becomes a refund.  Anything else becomes a call, which
the ledger accepts if the policy permits it.  What no ledger can send is refused here,
with the names of the policy's rules (``signer/policy/rules.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from eth_utils.address import to_checksum_address

from signer.amounts import format_units
from signer.chain.erc20 import decode_transfer
from signer.config.networks import Network
from signer.crypto.transaction_json import (
    parse_transaction,
    read_address,
    read_quantity,
)
from signer.crypto.transactions import MAX_GAS, DynamicFeeTransaction, LegacyTransaction
from signer.errors import EncodingError, InvalidInputError, PolicyViolationError
from signer.policy.rules import RULES


_OF_OTHER_TYPES = frozenset(
    {
        "authorizationList",
        "blobVersionedHashes",
        "blobs",
        "commitments",
        "maxFeePerBlobGas",
        "proofs",
        "sidecars",
    }
)

_BASE_GAS = 21_000
_ZERO_GAS = 4
_BYTE_GAS = 16
"""Of a transaction, and of each byte of its data (EIP-2028)."""

_TYPES: tuple[int, ...] = (LegacyTransaction.type, DynamicFeeTransaction.type)
"""Those that the ledger sends."""

_FEES = ("maxFeePerGas", "maxPriorityFeePerGas")


@dataclass(frozen=True, slots=True, kw_only=True)
class _TransactionTerms:
    """
    What a client demands of the transaction beside its content; None: it does not.

    *max_price* is the most that it would pay for one gas, in wei.
    """

    nonce: int | None = None
    type: int | None = None
    max_price: int | None = None

    @property
    def has_terms(self) -> bool:
        """Whether a node may have to be asked."""
        return (self.nonce, self.type, self.max_price) != (None, None, None)


@dataclass(frozen=True, slots=True)
class TransferRequest(_TransactionTerms):
    """
    What a client wants to be paid: *amount* is a decimal string in whole tokens.

    ``sender`` is who is to pay.  Addresses have their EIP-55 checksum.
    """

    sender: str
    chain_id: int
    token: str
    recipient: str
    amount: str


@dataclass(frozen=True, slots=True)
class ContractCall(_TransactionTerms):
    """
    What a client wants to be called: *recipient*, with *value* in wei and *data*.

    Without *data*, it sends coin.  The other fields are as in ``TransferRequest``.
    """

    sender: str
    chain_id: int
    recipient: str
    value: int
    data: bytes


Payment = TransferRequest | ContractCall


def read_sender(fields: Mapping[str, object]) -> str:
    """Return the address in ``from``; raises ``InvalidInputError``."""
    if fields.get("from") is None:
        raise InvalidInputError("from is missing", field="from")
    return read_address(fields["from"], "from")


def read_chain_id(fields: Mapping[str, object]) -> int | None:
    """Return the ``chainId``, or None if there is none; as ``read_sender``."""
    given = fields.get("chainId")
    return None if given is None else int(read_quantity(given, "chainId"))


def read_payment(fields: Mapping[str, object], network: Network) -> Payment:
    """
    Return what the transaction *fields* does on *network*.

    *fields* are those of ``eth_sendTransaction``; null counts as absent.  With what the
    ledger and the worker choose, they must be a valid transaction.  Only a ``transfer``
    of a configured token in canonical encoding, without coin and further bytes, is a
    ``TransferRequest``.

    Raises:
        InvalidInputError: A field is malformed, unknown or impossible, or two fields
            contradict each other.
        PolicyViolationError: It creates a contract, or has an access list or a type
            that the ledger does not send.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    sender = read_sender(given)
    transaction = _parse(given, network)
    _require_gas(transaction)
    to, value, data = transaction.to, transaction.value, transaction.data
    if to is None:
        raise _violation("creation")
    if isinstance(transaction, LegacyTransaction):
        price = transaction.gas_price
    else:
        price = transaction.max_fee_per_gas
    terms: dict[str, int | None] = {
        "nonce": transaction.nonce if "nonce" in given else None,
        "type": transaction.type if "type" in given else None,
        "max_price": price if given.keys() & {"gasPrice", "maxFeePerGas"} else None,
    }
    chain_id = transaction.chain_id
    found = None if value else _read_transfer(to, data, network)
    if found is None:
        return ContractCall(sender, chain_id, to, value, data, **terms)
    token, recipient, amount = found
    return TransferRequest(sender, chain_id, token, recipient, amount, **terms)


def _parse(
    given: Mapping[str, object], network: Network
) -> LegacyTransaction | DynamicFeeTransaction:
    """Return the transaction of *given*; what is absent gets a value that fits."""
    kind = read_quantity(given["type"], "type") if "type" in given else None
    if not _OF_OTHER_TYPES.isdisjoint(given) or (
        kind not in _TYPES and kind is not None
    ):
        raise _violation("transaction-type")
    has_price = "gasPrice" in given and given.keys().isdisjoint(_FEES)
    if kind == LegacyTransaction.type or (kind is None and has_price):
        fees: dict[str, object] = {"gasPrice": 0}
    else:
        name = "maxPriorityFeePerGas"
        tip = read_quantity(given.get(name, 0), name)
        fees = {"maxFeePerGas": tip, "maxPriorityFeePerGas": 0}
    gas = {} if "gasLimit" in given else {"gas": MAX_GAS}
    transaction = parse_transaction(
        {"chainId": network.chain_id, "nonce": 0, **gas, **fees, **given}
    )
    if getattr(transaction, "access_list", ()):
        raise _violation("function")
    if not isinstance(transaction, LegacyTransaction | DynamicFeeTransaction):
        raise _violation("transaction-type")
    return transaction


def _require_gas(transaction: LegacyTransaction | DynamicFeeTransaction) -> None:
    """Require that a transaction with this gas could be mined."""
    zeros = transaction.data.count(0)
    others = len(transaction.data) - zeros
    least = _BASE_GAS + _ZERO_GAS * zeros + _BYTE_GAS * others
    if not least <= transaction.gas <= MAX_GAS:
        raise InvalidInputError(
            f"must be {least}, which each transaction with this data uses, to"
            f" {MAX_GAS} (EIP-7825)",
            field="gas",
        )


def _read_transfer(
    contract: str, data: bytes, network: Network
) -> tuple[str, str, str] | None:
    """Return token, recipient and amount of a transfer; None if it is none."""
    tokens = {token.address: symbol for symbol, token in network.tokens.items()}
    symbol = tokens.get(contract)
    if symbol is None:
        return None
    try:
        recipient, units, memo = decode_transfer(data)
    except EncodingError:
        return None
    if memo:
        return None  # It could be that of another refund.
    amount = format_units(units, network.tokens[symbol].decimals)
    return symbol, to_checksum_address(recipient), amount


def _violation(rule: str) -> PolicyViolationError:
    return PolicyViolationError(
        f"the transaction cannot be sent: {RULES[rule]} (rule {rule})", rule=rule
    )
