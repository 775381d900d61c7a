"""
Recognises typed data that moves tokens, or lets others move them.

A document is recognised by its type string, which contracts hash, and not by the name
of its primary type alone: a struct called ``Permit`` may contain anything.  Who deploys
the verifying contract is for policy to decide.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from signer.amounts import MAX_UINT256
from signer.chain.calldata import DecodedCall, decode_call
from signer.crypto.typed_data import USER_OPERATION, Member, TypedData
from signer.crypto.typed_data.struct_types import encode_type
from signer.errors import EncodingError


UNKNOWN = "unknown"

MAX_NESTING = 4
"""Levels of calls in a document: deeper ones are malformed."""


@dataclass(frozen=True, slots=True)
class Grant:
    """
    An *amount* of a *token*, in base units, that a document gives away.

    *token* is None if the document does not name it.  For an NFT the amount counts
    tokens.
    """

    token: str | None
    amount: int


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
    called: "Called | None" = None

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


Called = tuple[str, int, bytes]
"""The contract, the coin in wei, and the calldata."""

_Reader = Callable[[str, TypedData], Meaning]


def recognise(document: TypedData) -> Meaning:
    """Return the meaning of *document*; its kind is ``unknown`` for all others."""
    known = _KINDS.get(document.encode_type())
    if known is not None:
        kind, read = known
        return read(kind, document)
    if _is_bulk_order(document):
        return _seaport_bulk("seaport-bulk-order", document)
    witness_kind = _witness_kind(document)
    if witness_kind is not None:
        return _permit2_transfer(witness_kind, document)
    return Meaning(UNKNOWN)


def _dai(kind: str, document: TypedData) -> Meaning:
    m = document.message
    amount = MAX_UINT256 if m["allowed"] else 0
    return Meaning(
        kind,
        spender=m["spender"],
        grants=(Grant(document.verifying_contract, amount),),
        # DAI's contract reads 0 as "never expires".
        deadline=m["expiry"] or None,
    )


def _permit2(granted: str, deadline: str) -> _Reader:
    """Return the reader of Permit2's documents whose members have these names."""

    def read(kind: str, document: TypedData) -> Meaning:
        m = document.message
        return Meaning(
            kind,
            spender=m["spender"],
            grants=_grants(m[granted]),
            deadline=m[deadline],
        )

    return read


_permit2_allowance = _permit2("details", "sigDeadline")
_permit2_transfer = _permit2("permitted", "deadline")


def _own_token(
    *, spender: str = "", recipient: str = "", amount: str | int = 0, deadline: str
) -> _Reader:
    """
    Return the reader of what concerns the verifying contract's own token.

    The arguments are names of members, but for a constant *amount*; 0: no tokens.
    """

    def read(kind: str, document: TypedData) -> Meaning:
        m = document.message
        number = m[amount] if isinstance(amount, str) else amount
        return Meaning(
            kind,
            spender=m[spender] if spender else None,
            recipient=m[recipient] if recipient else None,
            grants=(Grant(document.verifying_contract, number),) if amount else (),
            deadline=m[deadline],
        )

    return read


def _order(token: str, *amounts: str, deadline: str | None = None) -> _Reader:
    """Return the reader of an order that sells the sum of *amounts* of *token*."""

    def read(kind: str, document: TypedData) -> Meaning:
        m = document.message
        receiver = m["receiver"]  # Zero is the account itself.
        return Meaning(
            kind,
            recipient=None if receiver == NOWHERE else receiver,
            grants=(Grant(m[token], sum(m[each] for each in amounts)),),
            deadline=None if deadline is None else m[deadline],
        )

    return read


def _request(data: str, deadline: str | None = None) -> _Reader:
    """Return the reader of a call that another address sends for the account."""

    def read(kind: str, document: TypedData) -> Meaning:
        m = document.message
        to = m.get("to", document.verifying_contract)
        return _called(
            kind,
            (to or NOWHERE, m.get("value", 0), m[data]),
            None if deadline is None else m[deadline],
        )

    return read


def _user_operation(kind: str, document: TypedData) -> Meaning:
    """Read an ERC-4337 operation: how its account reads the calldata is not known."""
    return Meaning(kind, recipient=document.message["sender"])


def _called(kind: str, called: Called, deadline: int | None = None) -> Meaning:
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
    """
    Yield *call*, if it is known, and those inside it.

    Raises:
        EncodingError: One of them is malformed, or nested too deeply.
    """
    if call is None:
        return
    if depth > MAX_NESTING:
        raise EncodingError(f"calls are nested deeper than {MAX_NESTING} levels")
    yield call
    for inner in call.inner_calls():
        yield from _flatten(inner, depth + 1)


def _safe(kind: str, document: TypedData) -> Meaning:
    m = document.message
    return _called(kind, (m["to"], m["value"], m["data"]))


def _seaport(kind: str, document: TypedData) -> Meaning:
    order = document.message
    return Meaning(kind, grants=_offers(order), deadline=order["endTime"])


def _seaport_bulk(kind: str, document: TypedData) -> Meaning:
    orders = list(_leaves(document.message["tree"]))
    return Meaning(
        kind,
        grants=tuple(grant for order in orders for grant in _offers(order)),
        deadline=max(order["endTime"] for order in orders),
    )


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, list):
        for branch in tree:
            yield from _leaves(branch)
    else:
        yield tree


def _offers(order: Any) -> tuple[Grant, ...]:
    return tuple(
        Grant(item["token"], max(item["startAmount"], item["endAmount"]))
        for item in order["offer"]
    )


def _grants(details: Any) -> tuple[Grant, ...]:
    items = details if isinstance(details, list) else [details]
    return tuple(Grant(item["token"], item["amount"]) for item in items)


NOWHERE = "0x" + "0" * 40
"""In place of the contract of a document that names none."""

_PERMISSIONS = "TokenPermissions(address token,uint256 amount)"
_DETAILS = "PermitDetails(address token,uint160 amount,uint48 expiration,uint48 nonce)"
_AUTHORIZATION = (
    "(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    "bytes32 nonce)"
)
_ERC3009 = _own_token(recipient="to", amount="value", deadline="validBefore")
_VALIDITY = ",uint256 validAfter,uint256 validBefore,bytes32 nonce)"
_FORWARDED = "address from,address to,uint256 value,uint256 gas"
_ITEM = (
    "uint8 itemType,address token,uint256 identifierOrCriteria,uint256 startAmount,"
    "uint256 endAmount"
)
_ORDER = (
    "OrderComponents(address offerer,address zone,OfferItem[] offer,"
    "ConsiderationItem[] consideration,uint8 orderType,uint256 startTime,"
    "uint256 endTime,bytes32 zoneHash,uint256 salt,bytes32 conduitKey,"
    f"uint256 counter)ConsiderationItem({_ITEM},address recipient)OfferItem({_ITEM})"
)


def _safe_type(gas: str) -> str:
    return (
        "SafeTx(address to,uint256 value,bytes data,uint8 operation,uint256 safeTxGas,"
        f"uint256 {gas},uint256 gasPrice,address gasToken,address refundReceiver,"
        "uint256 nonce)"
    )


_KINDS: Mapping[str, tuple[str, _Reader]] = {
    # ERC-2612.
    "Permit(address owner,address spender,uint256 value,uint256 nonce,"
    "uint256 deadline)": (
        "erc2612-permit",
        _own_token(spender="spender", amount="value", deadline="deadline"),
    ),
    # DAI: the older form, all or nothing.
    "Permit(address holder,address spender,uint256 nonce,uint256 expiry,"
    "bool allowed)": ("dai-permit", _dai),
    # Permit2, AllowanceTransfer.
    "PermitSingle(PermitDetails details,address spender,uint256 sigDeadline)"
    + _DETAILS: ("permit2-single", _permit2_allowance),
    "PermitBatch(PermitDetails[] details,address spender,uint256 sigDeadline)"
    + _DETAILS: ("permit2-batch", _permit2_allowance),
    # Permit2, SignatureTransfer.
    "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,"
    "uint256 deadline)" + _PERMISSIONS: ("permit2-transfer", _permit2_transfer),
    "PermitBatchTransferFrom(TokenPermissions[] permitted,address spender,"
    "uint256 nonce,uint256 deadline)" + _PERMISSIONS: (
        "permit2-batch-transfer",
        _permit2_transfer,
    ),
    # ERC-3009.
    "TransferWithAuthorization" + _AUTHORIZATION: ("erc3009-transfer", _ERC3009),
    "ReceiveWithAuthorization" + _AUTHORIZATION: ("erc3009-receive", _ERC3009),
    # Safe; "dataGas" is before version 1.0.0.
    _safe_type("baseGas"): ("safe-transaction", _safe),
    _safe_type("dataGas"): ("safe-transaction", _safe),
    # Seaport 1.1 to 1.6.
    _ORDER: ("seaport-order", _seaport),
    # CoW Protocol (GPv2Order).
    "Order(address sellToken,address buyToken,address receiver,uint256 sellAmount,"
    "uint256 buyAmount,uint32 validTo,bytes32 appData,uint256 feeAmount,string kind,"
    "bool partiallyFillable,string sellTokenBalance,string buyTokenBalance)": (
        "cow-order",
        _order("sellToken", "sellAmount", "feeAmount", deadline="validTo"),
    ),
    # 1inch limit orders, versions 3 and 4.
    "Order(uint256 salt,address makerAsset,address takerAsset,address maker,"
    "address receiver,address allowedSender,uint256 makingAmount,uint256 takingAmount,"
    "uint256 offsets,bytes interactions)": (
        "1inch-order",
        _order("makerAsset", "makingAmount"),
    ),
    "Order(uint256 salt,address maker,address receiver,address makerAsset,"
    "address takerAsset,uint256 makingAmount,uint256 takingAmount,"
    "uint256 makerTraits)": ("1inch-order", _order("makerAsset", "makingAmount")),
    # What bridged USDC on Polygon has beside ERC-3009.
    "ApproveWithAuthorization(address owner,address spender,uint256 value"
    + _VALIDITY: (
        "approve-with-authorization",
        _own_token(spender="spender", amount="value", deadline="validBefore"),
    ),
    "IncreaseAllowanceWithAuthorization(address owner,address spender,"
    "uint256 increment" + _VALIDITY: (
        "approve-with-authorization",
        _own_token(spender="spender", amount="increment", deadline="validBefore"),
    ),
    # ERC-4494, and positions of Uniswap.
    "Permit(address spender,uint256 tokenId,uint256 nonce,uint256 deadline)": (
        "nft-permit",
        _own_token(spender="spender", amount=1, deadline="deadline"),
    ),
    "PermitForAll(address operator,bool approved,uint256 nonce,uint256 deadline)": (
        "nft-permit-for-all",
        _own_token(spender="operator", deadline="deadline"),
    ),
    # Debt tokens of Aave: another address borrows, and the account owes.
    "DelegationWithSig(address delegatee,uint256 value,uint256 nonce,"
    "uint256 deadline)": (
        "aave-credit-delegation",
        _own_token(spender="delegatee", amount="value", deadline="deadline"),
    ),
    # Compound III and Morpho: a manager withdraws and borrows.
    "Authorization(address owner,address manager,bool isAllowed,uint256 nonce,"
    "uint256 expiry)": (
        "lending-manager",
        _own_token(spender="manager", deadline="expiry"),
    ),
    "Authorization(address authorizer,address authorized,bool isAuthorized,"
    "uint256 nonce,uint256 deadline)": (
        "lending-manager",
        _own_token(spender="authorized", deadline="deadline"),
    ),
    # Votes of COMP, and of OpenZeppelin's ERC20Votes.
    "Delegation(address delegatee,uint256 nonce,uint256 expiry)": (
        "votes-delegation",
        _own_token(recipient="delegatee", deadline="expiry"),
    ),
    # ERC-2771: OpenZeppelin 4 and 5, and the Gas Station Network.
    f"ForwardRequest({_FORWARDED},uint256 nonce,bytes data)": (
        "forward-request",
        _request("data"),
    ),
    f"ForwardRequest({_FORWARDED},uint256 nonce,uint48 deadline,bytes data)": (
        "forward-request",
        _request("data", "deadline"),
    ),
    f"ForwardRequest({_FORWARDED},uint256 nonce,bytes data,uint256 validUntilTime)": (
        "forward-request",
        _request("data", "validUntilTime"),
    ),
    # Biconomy, and bridged tokens on Polygon.
    "MetaTransaction(uint256 nonce,address from,bytes functionSignature)": (
        "meta-transaction",
        _request("functionSignature"),
    ),
    USER_OPERATION: ("user-operation", _user_operation),
}

# Permit2 appends the integrator's own type, the witness, to these members.
_AFTER_PERMITTED = (
    Member("spender", "address"),
    Member("nonce", "uint256"),
    Member("deadline", "uint256"),
)
_WITNESS = {
    "PermitWitnessTransferFrom": (
        "permit2-witness-transfer",
        (Member("permitted", "TokenPermissions"), *_AFTER_PERMITTED),
    ),
    "PermitBatchWitnessTransferFrom": (
        "permit2-batch-witness-transfer",
        (Member("permitted", "TokenPermissions[]"), *_AFTER_PERMITTED),
    ),
}
_PERMISSION_MEMBERS = (Member("token", "address"), Member("amount", "uint256"))


def _witness_kind(document: TypedData) -> str | None:
    kind, expected = _WITNESS.get(document.primary_type, (None, ()))
    members = document.types[document.primary_type]
    is_transfer = (
        members[:-1] == expected
        and document.types.get("TokenPermissions") == _PERMISSION_MEMBERS
    )
    return kind if is_transfer else None


_TREE = re.compile(r"OrderComponents(\[2\])+")


def _is_bulk_order(document: TypedData) -> bool:
    """Return whether *document* is a tree of orders (Seaport, bulk signatures)."""
    if document.primary_type != "BulkOrder":
        return False
    members = document.types["BulkOrder"]
    return (
        [member.name for member in members] == ["tree"]
        and _TREE.fullmatch(members[0].type) is not None
        and encode_type(document.types, "OrderComponents") == _ORDER
    )
