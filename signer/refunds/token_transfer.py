"""
Reads a transaction that a client wants to be sent: a transfer of a token, or a call.

A transfer of a configured token becomes a refund.  Anything else becomes a call, which
the ledger accepts if the policy permits it.  What no ledger can send is refused here,
with the names of the policy's rules (``signer/policy/rules.py``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eth_utils.address import to_checksum_address

from signer.amounts import format_units
from signer.chain.erc20 import decode_transfer
from signer.config.networks import Network
from signer.crypto.transaction_json.values import (
    read_address,
    read_data,
    read_list,
    read_quantity,
    read_recipient,
)
from signer.errors import EncodingError, InvalidInputError, PolicyViolationError
from signer.policy.rules import RULES


_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "from": read_address,
    "to": read_recipient,
    "data": read_data,
    "input": read_data,
    "value": read_quantity,
    "chainId": read_quantity,
    "type": read_quantity,
    "nonce": read_quantity,
    # The worker chooses them; they must only be valid.
    "gas": read_quantity,
    "gasLimit": read_quantity,
    "gasPrice": read_quantity,
    "maxFeePerGas": read_quantity,
    "maxPriorityFeePerGas": read_quantity,
    "accessList": read_list,
}

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

_LAST_PLAIN_TYPE = 2


@dataclass(frozen=True, slots=True)
class TokenTransfer:
    """
    What a client wants to be paid: *amount* is a decimal string in whole tokens.

    ``sender`` is who is to pay.  ``nonce`` is None if the client names none.  Addresses
    have their EIP-55 checksum.
    """

    sender: str
    chain_id: int
    token: str
    recipient: str
    amount: str
    nonce: int | None = None


@dataclass(frozen=True, slots=True)
class ContractCall:
    """
    What a client wants to be called: *recipient*, with *value* in wei and *data*.

    Without *data*, it sends coin.  The other fields are as in ``TokenTransfer``.
    """

    sender: str
    chain_id: int
    recipient: str
    value: int
    data: bytes
    nonce: int | None = None


Payment = TokenTransfer | ContractCall


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

    *fields* are those of ``eth_sendTransaction``; null counts as absent.  Gas and fees
    are read, and promise nothing.  Only a ``transfer`` of a configured token
    in canonical encoding, without coin and further bytes, is a ``TokenTransfer``.

    Raises:
        InvalidInputError: A field is malformed or unknown, or ``data`` and ``input``
            differ.
        PolicyViolationError: It creates a contract, or has an access list or a type
            that the ledger does not send.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    sender = read_sender(given)
    if not _OF_OTHER_TYPES.isdisjoint(given):
        raise _violation("transaction-type")
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _READERS:
            message = "is no field of a transaction that can be sent"
            raise InvalidInputError(message, field=name)
        values[name] = _READERS[name](value, name)
    data = values.get("data", values.get("input", b""))
    if values.get("input", data) != data:
        raise InvalidInputError("input differs from data", field="input")
    _require_plain(values)
    to, value, nonce = values["to"], values.get("value", 0), values.get("nonce")
    chain_id = values.get("chainId", network.chain_id)
    found = None if value else _read_transfer(to, data, network)
    if found is None:
        return ContractCall(sender, chain_id, to, value, data, nonce)
    return TokenTransfer(sender, chain_id, *found, nonce)


def _require_plain(values: Mapping[str, Any]) -> None:
    """Refuse what no transaction of the ledger has; creation has no recipient."""
    refused = {
        "transaction-type": values.get("type", 0) > _LAST_PLAIN_TYPE,
        "creation": values.get("to") is None,
        "function": bool(values.get("accessList")),
    }
    for rule, applies in refused.items():
        if applies:
            raise _violation(rule)


def _read_transfer(
    contract: str, data: bytes, network: Network
) -> tuple[str, str, str] | None:
    """Return token, recipient and amount of a transfer; None if it is none."""
    tokens = {token.address: symbol for symbol, token in network.tokens.items()}
    symbol = tokens.get(contract)
    if symbol is None:
        return None
    try:
        recipient, units, mark = decode_transfer(data)
    except EncodingError:
        return None
    if mark:
        return None  # It could be that of another refund.
    amount = format_units(units, network.tokens[symbol].decimals)
    return symbol, to_checksum_address(recipient), amount


def _violation(rule: str) -> PolicyViolationError:
    return PolicyViolationError(
        f"the transaction cannot be sent: {RULES[rule]} (rule {rule})", rule=rule
    )
