"""
A typed-data document (EIP-712), as ``eth_signTypedData_v4`` receives it.

It accepts only what ethers, viem and eth-account accept and hash alike: what one of
them refuses, or two of them read differently, is refused before anything is hashed.
docs/reference/library.md has the list.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from signer.crypto.messages import message_digest
from signer.crypto.typed_data.struct_types import (
    DOMAIN,
    MAX_DEPTH,
    Member,
    StructTypes,
    ValueReader,
    encode_type,
    find_root,
    problem,
    read_types,
)
from signer.strict_json import is_deeper, unique_members


MAX_SIZE = 2**17
"""Characters of a document in JSON, and bytes of the texts and bytes in it."""

_DOCUMENT = "document"

_MEMBERS = ("types", "primaryType", "domain", "message")

# In this order (EIP-712, "Definition of domainSeparator"): viem hashes the order of the
# document, and ethers and eth-account this one.
_DOMAIN_MEMBERS = (
    Member("name", "string"),
    Member("version", "string"),
    Member("chainId", "uint256"),
    Member("verifyingContract", "address"),
    Member("salt", "bytes32"),
)

USER_OPERATION = (
    "PackedUserOperation(address sender,uint256 nonce,bytes initCode,bytes callData,"
    "bytes32 accountGasLimits,uint256 preVerificationGas,bytes32 gasFees,"
    "bytes paymasterAndData)"
)
"""The type of ERC-4337's operations, of entry points from version 0.8 on."""

_SIGNATURE = {"signature": (Member("signature", "bytes"),)}

_MAX_DIGITS = 80  # Of an integer; 2**256 has 78.


@dataclass(frozen=True, slots=True)
class TypedData:
    """
    A valid document with normalised values, made by ``parse`` or ``of``.

    ``domain`` has those of name, version, chainId, verifyingContract and salt that the
    document has; ``types`` are without ``EIP712Domain``.  Integers are ``int``, bytes
    are ``bytes``, addresses have their EIP-55 checksum, arrays are lists.
    """

    domain: Mapping[str, Any]
    primary_type: str
    types: StructTypes
    message: Mapping[str, Any]

    @classmethod
    def parse(cls, document: object) -> Self:
        """
        Return the document *document*: a decoded JSON object, or its JSON text.

        Bytes may be given as ``bytes`` instead of hex.

        Raises:
            InvalidInputError: It is not a document that every wallet hashes alike;
                ``field`` is the path of the part that is wrong.
        """
        if isinstance(document, str):
            document = _decode(document)
        if not isinstance(document, Mapping) or document.keys() != set(_MEMBERS):
            text = f"must be an object with {', '.join(_MEMBERS)}, and no more"
            raise problem(text, _DOCUMENT)
        types, primary_type, domain, message = (document[name] for name in _MEMBERS)
        result = cls.of(domain, types, message)
        if primary_type != result.primary_type:
            text = (
                "must be the struct type that no other struct type contains:"
                f" {result.primary_type}"
            )
            raise problem(text, "primaryType")
        return result

    @classmethod
    def of(cls, domain: object, types: object, message: object) -> Self:
        """
        Return the document of three parts, as ``sign_typed_data`` of ethers gets them.

        The primary type is the one that no other type contains.  It raises as
        ``parse``.
        """
        structs = read_types(types)
        declared = structs.pop(DOMAIN, None)
        primary_type = find_root(structs)
        reader = ValueReader(structs, MAX_SIZE)
        if encode_type(structs, primary_type) == USER_OPERATION:
            message = _without_signature(message)
        return cls(
            _read_domain(domain, declared),
            primary_type,
            structs,
            reader.read_struct(primary_type, message, "message"),
        )

    @property
    def chain_id(self) -> int | None:
        """The chain id of the domain; None if it has none."""
        return self.domain.get("chainId")

    @property
    def verifying_contract(self) -> str | None:
        """The contract of the domain, with its checksum; None if it has none."""
        return self.domain.get("verifyingContract")

    def encode_type(self) -> str:
        """Return the type string of the message, which identifies its meaning."""
        return encode_type(self.types, self.primary_type)

    def digest(self) -> bytes:
        """Return keccak256(0x1901 || domain separator || hash of the message)."""
        from eth_account.messages import encode_typed_data  # noqa: PLC0415

        types = {
            name: [{"name": each.name, "type": each.type} for each in members]
            for name, members in self.types.items()
        }
        return message_digest(
            encode_typed_data(dict(self.domain), types, dict(self.message))
        )


def _read_domain(domain: object, declared: tuple[Member, ...] | None) -> dict[str, Any]:
    if not isinstance(domain, Mapping):
        raise problem("must be an object", "domain")
    present = tuple(each for each in _DOMAIN_MEMBERS if each.name in domain)
    if declared is not None and declared != present:
        text = (
            "must list the domain's members with their types, in the order of EIP-712:"
            " name, version, chainId, verifyingContract, salt"
        )
        raise problem(text, f"types.{DOMAIN}")
    return ValueReader({DOMAIN: present}, MAX_SIZE).read_struct(
        DOMAIN, domain, "domain"
    )


def _without_signature(message: object) -> object:
    """
    Return the operation *message* as it is signed.

    viem leaves the member ``signature`` in it, which the type does not have: no wallet
    hashes it, so no reader of the document may see it.
    """
    if not isinstance(message, Mapping) or "signature" not in message:
        return message
    ValueReader(_SIGNATURE, MAX_SIZE).read_struct(
        "signature", {"signature": message["signature"]}, "message"
    )
    return {name: value for name, value in message.items() if name != "signature"}


def _decode(text: str) -> object:
    if len(text) > MAX_SIZE:
        raise problem(f"must have at most {MAX_SIZE} characters", _DOCUMENT)
    if is_deeper(text, MAX_DEPTH):
        raise problem(f"is nested deeper than {MAX_DEPTH} levels", _DOCUMENT)
    try:
        return _DECODER.decode(text)
    except ValueError:
        # Not chained: the message of json quotes the input.
        raise problem("is not JSON (RFC 8259)", _DOCUMENT) from None


def _exact_integer(digits: str) -> int | float:
    # Integers are exact, since wallets send token amounts as numbers.  What is no
    # integer becomes a float, which no type accepts: here is no name for an error.
    if len(digits) > _MAX_DIGITS or digits == "-0":
        return 0.0
    return int(digits)


_DECODER = json.JSONDecoder(
    parse_int=_exact_integer,
    parse_float=lambda _: 0.0,
    parse_constant=lambda _: 0.0,
    object_pairs_hook=unique_members,
)
