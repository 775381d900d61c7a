"""
Recognises and describes typed data that moves tokens, or lets others move them.

A document is recognised by its type string, which contracts hash, and not by the name
of its primary type alone: a struct called ``Permit`` may contain anything.  Who deploys
the verifying contract is for policy to decide.  ``typed_data.toml`` has the kinds.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from signer.amounts import MAX_UINT256
from signer.chain.calldata import DecodedCall, decode_call
from signer.clear_signing.calls import (
    AddressBook,
    describe_transaction,
    quote,
    write_time,
)
from signer.crypto.messages import PersonalMessage
from signer.crypto.typed_data import USER_OPERATION, Member, TypedData, encode_type
from signer.errors import EncodingError


UNKNOWN = "unknown"

NOWHERE = "0x" + "0" * 40
"""In place of the contract of a document that names none."""

MAX_NESTING = 4
"""Levels of calls in a document: deeper ones are malformed."""

MAX_GRANTS = 8
"""Tokens of one document that are described; the others are counted."""

_SPEND = "permit {other} to spend {grants}"


@dataclass(frozen=True, slots=True)
class Grant:
    """
    An *amount* of a *token*, in base units, that a document gives away.

    *token* is None if the document does not name it.  For an NFT the amount counts
    tokens.
    """

    token: str | None
    amount: int


Called = tuple[str, int, bytes]
"""The contract, the coin in wei, and the calldata."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """
    What a typed-data document permits.

    ``spender`` may move the tokens of ``grants``, and ``recipient`` gets them; each is
    None if the document does not name it.  ``deadline`` is in seconds since 1970.

    ``called`` are the contract, the coin and the calldata of a call that the document
    permits.
    """

    kind: str
    spender: str | None = None
    recipient: str | None = None
    grants: tuple[Grant, ...] = ()
    deadline: int | None = None
    called: Called | None = None

    @property
    def token(self) -> str | None:
        """The token, if the document names exactly one."""
        tokens = {grant.token for grant in self.grants}
        return tokens.pop() if len(tokens) == 1 else None

    @property
    def amount(self) -> int | None:
        """The sum of the amounts, if there is exactly one token."""
        tokens = {grant.token for grant in self.grants}
        return sum(each.amount for each in self.grants) if len(tokens) == 1 else None


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    type: str
    words: str = _SPEND
    spender: str = ""
    recipient: str = ""
    receiver: str = ""
    token: str = ""
    amount: str | int = 0
    fee: str = ""
    allowed: str = ""
    grants: str = ""
    offer: bool = False
    calldata: str = ""
    answer: str = ""
    deadline: str = ""

    def read(self, document: TypedData) -> Meaning:
        m = document.message
        deadline = m[self.deadline] if self.deadline else None
        if self.calldata:
            to = m.get("to", document.verifying_contract) or NOWHERE
            call = (to, m.get("value", 0), m[self.calldata])
            return _read_call(self.name, call, deadline)
        if self.allowed:
            deadline = deadline or None  # DAI's contract reads 0 as "never expires".
        recipient = m[self.recipient or self.receiver] if self._pays else None
        if self.receiver and recipient == NOWHERE:
            recipient = None
        return Meaning(
            self.name,
            m[self.spender] if self.spender else None,
            recipient,
            tuple(self._read_grants(document)),
            deadline,
        )

    @property
    def _pays(self) -> bool:
        return bool(self.recipient or self.receiver)

    def _read_grants(self, document: TypedData) -> Iterator[Grant]:
        m = document.message
        if self.offer:
            yield from _offers(m)
        elif self.grants:
            found = m[self.grants]
            for each in found if isinstance(found, list) else [found]:
                yield Grant(each["token"], each["amount"])
        elif self.allowed:
            amount = MAX_UINT256 if m[self.allowed] else 0
            yield Grant(document.verifying_contract, amount)
        elif self.amount:
            amount = m[self.amount] if isinstance(self.amount, str) else self.amount
            fee = m[self.fee] if self.fee else 0
            token = m[self.token] if self.token else document.verifying_contract
            yield Grant(token, amount + fee)


_TABLE = files("signer.clear_signing").joinpath("typed_data.toml").read_text("utf-8")
_ROWS = [_Kind(**row) for row in tomllib.loads(_TABLE)["kind"]]
# How its account reads the calldata of an ERC-4337 operation is not known.
_OPERATION = _Kind(
    "user-operation",
    USER_OPERATION,
    "approve a user operation of {other} with {size} bytes of calldata",
    recipient="sender",
)
_KINDS: Mapping[str, _Kind] = {each.type: each for each in (*_ROWS, _OPERATION)}
(_ORDER,) = (each for each in _ROWS if each.offer)

# Permit2 appends the integrator's own type, the witness, to these members.
_AFTER_PERMITTED = (
    Member("spender", "address"),
    Member("nonce", "uint256"),
    Member("deadline", "uint256"),
)
_WITNESS = {
    "PermitWitnessTransferFrom": ("permit2-witness-transfer", "TokenPermissions"),
    "PermitBatchWitnessTransferFrom": (
        "permit2-batch-witness-transfer",
        "TokenPermissions[]",
    ),
}
_PERMISSION_MEMBERS = (Member("token", "address"), Member("amount", "uint256"))

_BULK_ORDER = "seaport-bulk-order"
_TREE = re.compile(r"OrderComponents(\[2\])+")


def recognise(document: TypedData) -> Meaning:
    """Return the meaning of *document*; its kind is ``unknown`` for all others."""
    kind = _find_kind(document)
    if kind is not None:
        return kind.read(document)
    if not _is_bulk_order(document):
        return Meaning(UNKNOWN)
    orders = list(_leaves(document.message["tree"]))
    return Meaning(
        _BULK_ORDER,
        grants=tuple(grant for order in orders for grant in _offers(order)),
        deadline=max(order["endTime"] for order in orders),
    )


def _find_kind(document: TypedData) -> _Kind | None:
    known = _KINDS.get(document.encode_type())
    if known is not None or document.primary_type not in _WITNESS:
        return known
    name, permitted = _WITNESS[document.primary_type]
    is_transfer = (
        document.types[document.primary_type][:-1]
        == (Member("permitted", permitted), *_AFTER_PERMITTED)
        and document.types.get("TokenPermissions") == _PERMISSION_MEMBERS
    )
    if not is_transfer:
        return None
    return _Kind(name, "", spender="spender", grants="permitted", deadline="deadline")


def _is_bulk_order(document: TypedData) -> bool:
    """Return whether *document* is a tree of orders (Seaport, bulk signatures)."""
    if document.primary_type != "BulkOrder":
        return False
    members = document.types["BulkOrder"]
    return (
        [member.name for member in members] == ["tree"]
        and _TREE.fullmatch(members[0].type) is not None
        and encode_type(document.types, "OrderComponents") == _ORDER.type
    )


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, list):
        for branch in tree:
            yield from _leaves(branch)
    else:
        yield tree


def _offers(order: Any) -> Iterator[Grant]:
    for item in order["offer"]:
        yield Grant(item["token"], max(item["startAmount"], item["endAmount"]))


def _read_call(kind: str, called: Called, deadline: int | None) -> Meaning:
    """Return what a document permits that lets *called* be called."""
    to, _, data = called
    try:
        calls = list(_flatten(decode_call(data)))
    except EncodingError:
        return Meaning(kind, None, to, (), deadline, called)  # The floor refuses it.
    named = [call.named() for call in calls]
    spenders = [each.get("spender", each.get("operator")) for each in named]
    recipients = [each.get("to") for each in named]
    return Meaning(
        kind,
        next(filter(None, spenders), None),
        next(filter(None, recipients), to),
        # Permit2's functions name the token.
        tuple(
            Grant(each.get("token", to), each["amount"])
            for each in named
            if "amount" in each
        ),
        deadline,
        called,
    )


def _flatten(call: DecodedCall | None, depth: int = 0) -> Iterator[DecodedCall]:
    """Yield *call*, if it is known, and those inside it; ``EncodingError`` as they."""
    if call is None:
        return
    if depth > MAX_NESTING:
        raise EncodingError(f"calls are nested deeper than {MAX_NESTING} levels")
    yield call
    for inner in call.inner_calls():
        yield from _flatten(inner, depth + 1)


def describe_typed_data(document: TypedData, book: AddressBook) -> str:
    """Return what *document* permits, on one line; if unknown, its type and domain."""
    meaning = recognise(document)
    about = _describe_domain(document, book)
    if meaning.kind == UNKNOWN:
        return f"sign {quote(document.primary_type)}{about}"
    text = _describe(meaning, document, book)
    if meaning.deadline is not None:
        text += f" {write_time(meaning.deadline)}"
    return f"{text} ({meaning.kind}){about}"


def describe_message(message: PersonalMessage) -> str:
    """Return *message* on one line, in quotes and shortened, or its size."""
    if message.text is None:
        return f"sign a message of {len(message.body)} bytes"
    return f"sign the message {quote(message.text)}"


def _describe(meaning: Meaning, document: TypedData, book: AddressBook) -> str:
    m, kind = document.message, _find_kind(document) or _ORDER
    # The document names at least one of them.
    other = book.address(meaning.spender or meaning.recipient or NOWHERE)
    values: dict[str, object] = {
        "other": other,
        "grants": _describe_grants(meaning, book),
        "paid_to": f", paid to {other}" if meaning.recipient else "",
        "id": m.get("tokenId"),
    }
    if kind.answer:
        values["answer"] = "yes" if m[kind.answer] else "no"
    if meaning.called is not None:
        values["inner"] = describe_transaction(*meaning.called, book)
        values["how"] = _HOW.get(m.get("operation", 0), " by an unknown operation")
    if kind is _OPERATION:
        values["size"] = len(m["callData"])
    return kind.words.format_map(values)


# A delegate call runs foreign code in the Safe's own name.
_HOW = {0: "", 1: " by delegate call"}


def _describe_domain(document: TypedData, book: AddressBook) -> str:
    parts = []
    if "name" in document.domain:
        parts.append(f"for {quote(document.domain['name'])}")
    if document.verifying_contract is not None:
        parts.append(f"at {book.address(document.verifying_contract)}")
    if document.chain_id is not None:
        parts.append(f"on chain {document.chain_id}")
    return "".join(f" {part}" for part in parts)


def _describe_grants(meaning: Meaning, book: AddressBook) -> str:
    grants = meaning.grants
    shown = [book.amount(each.amount, each.token) for each in grants[:MAX_GRANTS]]
    if len(grants) > MAX_GRANTS:
        shown.append(f"{len(grants) - MAX_GRANTS} more")
    return " and ".join(shown) or "nothing"
