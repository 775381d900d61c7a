"""
Reads a transaction that a client wants to be sent, as the transfer that it must be.

Only a transfer of a configured token can be sent, because it becomes a refund.  The
refusals have the names of the policy's rules (``signer/policy/rules.py``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eth_utils.address import to_checksum_address

from signer.amounts import format_units
from signer.chain.calldata import decode_call
from signer.chain.erc20 import TRANSFER
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
    # The ledger assigns the nonce and the worker the rest; they must only be valid.
    "nonce": read_quantity,
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

_ALLOWANCES = frozenset(
    {
        "approve",
        "approveAndCall",
        "increaseAllowance",
        "increaseApproval",
        "permit",
        "setApprovalForAll",
    }
)


@dataclass(frozen=True, slots=True)
class TokenTransfer:
    """
    What a client wants to be paid: *amount* is a decimal string in whole tokens.

    ``sender`` is who is to pay, and ``chain_id`` None if the client names no chain.
    Addresses have their EIP-55 checksum.
    """

    sender: str
    chain_id: int | None
    token: str
    recipient: str
    amount: str


def read_sender(fields: Mapping[str, object]) -> str:
    """Return the address in ``from``; raises ``InvalidInputError``."""
    if fields.get("from") is None:
        raise InvalidInputError("from is missing", field="from")
    return read_address(fields["from"], "from")


def read_chain_id(fields: Mapping[str, object]) -> int | None:
    """Return the ``chainId``, or None if there is none; as ``read_sender``."""
    given = fields.get("chainId")
    return None if given is None else int(read_quantity(given, "chainId"))


def read_transfer(fields: Mapping[str, object], network: Network) -> TokenTransfer:
    """
    Return the transfer that the transaction *fields* makes on *network*.

    *fields* are those of ``eth_sendTransaction``; null counts as absent.  Nonce, gas
    and fees are read, and promise nothing.

    Raises:
        InvalidInputError: A field is malformed or unknown, or ``data`` and ``input``
            differ.
        PolicyViolationError: It is anything but a ``transfer`` of a configured token
            in canonical encoding: with coin, an access list or further bytes, too.
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
    _require_plain(values, data)
    token, recipient, units = _read_call(values["to"], data, network)
    return TokenTransfer(
        sender,
        values.get("chainId"),
        token,
        to_checksum_address(recipient),
        format_units(units, network.tokens[token].decimals),
    )


def _require_plain(values: Mapping[str, Any], data: bytes) -> None:
    """Refuse what is no call without coin; creation has no recipient."""
    value = values.get("value", 0)
    refused = {
        "transaction-type": values.get("type", 0) > _LAST_PLAIN_TYPE,
        "creation": values.get("to") is None,
        "coin": not data and value > 0,
        "empty": not data,
        "value": value > 0,
        "function": bool(values.get("accessList")),
    }
    for rule, applies in refused.items():
        if applies:
            raise _violation(rule)


def _read_call(contract: str, data: bytes, network: Network) -> tuple[str, str, int]:
    """Return the token, the recipient and the amount in base units of a call."""
    symbols = {token.address: symbol for symbol, token in network.tokens.items()}
    try:
        call = decode_call(data)
    except EncodingError:
        raise _violation("calldata") from None
    if call is None or not data.startswith(TRANSFER):
        grants = call is not None and call.name in _ALLOWANCES
        raise _violation("allowance" if grants else "function")
    if call.extra:
        raise _violation("extra-calldata")
    if contract not in symbols:
        raise _violation("token")
    recipient, units = call.arguments
    return symbols[contract], recipient, units


def _violation(rule: str) -> PolicyViolationError:
    return PolicyViolationError(
        "only a transfer of a configured token can be sent:"
        f" {RULES[rule]} (rule {rule})",
        rule=rule,
    )
