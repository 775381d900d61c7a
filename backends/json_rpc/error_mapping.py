"""
Maps a node's error object to the errors of ``signer.errors``: pure functions.

JSON-RPC defines five error codes and EIP-1474 a few more.  For everything else each
client has its own codes and messages, and changes them.  The message decides, and the
code where the message is unknown.  Messages of nodes are never shown.
"""

import re
from collections.abc import Iterator, Mapping

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
    InvalidInputError,
    MethodNotServedError,
    RevertedCallError,
)


class AlreadyKnownError(ChainError):
    """The node has the transaction already, which counts as success."""


class CannotAnswerError(ChainUnavailableError):
    """The node responded, but cannot serve this request, or not now."""


# JSON-RPC 2.0, section 5.1, and EIP-1474, which Hardhat's node follows.
_METHOD_NOT_SERVED = frozenset({-32601, -32004})

# JSON-RPC 2.0, section 5.1: parse error, invalid request, bad params.
_CLIENT_ERRORS = frozenset({-32700, -32600, -32602}) | _METHOD_NOT_SERVED

# EIP-1474: resource not found, resource unavailable, limit exceeded; and JSON-RPC's
# internal error, which gateways return for their own failures.
_NODE_ERRORS = frozenset({-32001, -32002, -32005, -32603})

_INVALID_PARAMS = -32602

# geth and most newer clients use 3; Nethermind and OpenEthereum use -32015.
_REVERTED = frozenset({3, -32015})

_EXECUTING = frozenset({"eth_call", "eth_estimateGas"})

# Messages are compared without case, spaces, digits and punctuation, because the same
# error is "already known", "AlreadyKnown" and "ALREADY_EXISTS: already known".
# The first matching row decides.  The messages are those of geth's and Erigon's pools,
# Nethermind's AcceptTxResult, Besu's RpcErrorType, reth, anvil, Hardhat's EDR,
# OpenEthereum, Nitro and zkSync.
_ALREADY_KNOWN = re.compile(
    r"alreadyknown|(?<!un)knowntransaction|alreadyimported|existingtxwithsamehash"
    r"|withsamehashalreadyexists|txalreadyin(mempool|thepool)|txalreadyexistsincache"
)
_BUSY = re.compile(
    r"poolisfull|poolfull|queuefull|accountlimitexceeded|inflighttransactionlimit"
    r"|futuretransactiontriestoreplacepending|addressalreadyreserved"
    r"|toomanytransactionsinthequeue|congestion"
    r"|ratelimit|toomanyrequests|timeout|timedout|sync"
)
_REASONS = {
    "nonce-too-low": re.compile(
        r"noncetoolow|nonceistoolow|oldnonce|poolstale|noncehasalreadybeenused"
        r"|transactionalreadyfinali[sz]ed"
    ),
    "nonce-too-high": re.compile(
        r"noncetoohigh|noncegap|futurenonce|exceedsnextnonce"
        r"|noncetoofarinfuture|noncetoodistant|nonceistoodistant|lowernonceexists"
    ),
    "underpriced": re.compile(
        r"underpriced|feetoolow|gaspricetoolow|gasprice(wei)?istoolow"
        r"|lessthanblockbasefee|belowcurrentbasefee|below(configured)?minimum"
        r"|replacementnotallowed|couldnotreplaceexistingtx"
        r"|anothertx(which)?hasthesamenonce|feepergasistoolow"
    ),
    "insufficient-funds": re.compile(
        r"insufficientfunds|insufficientbalance|notenoughfunds|haveenoughfunds"
        r"|upfrontcostexceeds"
    ),
}

# Ethermint and its forks report two nonces, which must be compared.
_NONCES = re.compile(r"invalid nonce; got (\d{1,20}), expected (\d{1,20})\b")

_EXHAUSTED = re.compile(r"outofgas|gasrequiredexceeds|invalidopcode|badinstruction")
_NOT_FOUND = re.compile(r"(block|header).*notfound|unknownblock")

_BARE = "executionreverted"
_UNVERIFIED = "the node sent a message, but no return data of the contract"

_LARGEST_CODE = 1_000_000


def map_error(method: str, error: object) -> ChainError:
    """Return the error for *error*, any JSON value, the node's response to *method*."""
    fields: Mapping[str, object] = error if isinstance(error, Mapping) else {}
    code = _code(fields)
    message = _normalize(fields.get("message"))
    if method in _EXECUTING and _is_revert(code, message):
        return ExecutionRevertedError(_reason(fields, message))
    if method == "eth_sendRawTransaction" and code not in _METHOD_NOT_SERVED:
        return _map_rejection(code, message + _compare_nonces(fields.get("message")))
    if code in _CLIENT_ERRORS:
        return ChainError(f"the node does not serve {method} (code {code})")
    return CannotAnswerError(f"the node could not answer {method}{_format_code(code)}")


def map_client_error(method: str, error: object) -> Exception:
    """
    Return the error to raise for *error*, the node's response to a client's *method*.

    A revert has the contract's data, which the client decodes; bad parameters are the
    client's mistake; and a client may go on without a method that the node lacks.
    """
    mapped = map_error(method, error)
    fields: Mapping[str, object] = error if isinstance(error, Mapping) else {}
    if isinstance(mapped, ExecutionRevertedError):
        return RevertedCallError(str(mapped), data=_find_revert_data(fields))
    if _code(fields) == _INVALID_PARAMS:
        return InvalidInputError(
            f"the node refuses the parameters of {method}", field="params"
        )
    if _code(fields) in _METHOD_NOT_SERVED:
        return MethodNotServedError(str(mapped))
    return mapped


def is_conclusive(error: ChainError) -> bool:
    """
    Return whether *error*, of a member of a batch, is about this member alone.

    Any other one may be about the batch, for example a limit, or about the order in
    which the node took its members.
    """
    if isinstance(error, BroadcastRejectedError):
        return error.reason not in {"other", "nonce-too-high"}
    return isinstance(error, ExecutionRevertedError | AlreadyKnownError)


def is_not_found(error: object) -> bool:
    """Return whether *error* means that the node does not have the block."""
    message = error.get("message") if isinstance(error, Mapping) else None
    return _NOT_FOUND.search(_normalize(message)) is not None


def _is_revert(code: int | None, message: str) -> bool:
    return code in _REVERTED or "revert" in message or bool(_EXHAUSTED.search(message))


def _reason(fields: Mapping[str, object], message: str) -> str:
    data = _find_revert_data(fields)
    if data is not None:
        return revert_reason(data)
    if _EXHAUSTED.search(message):
        return "the call ran out of gas"
    # The message may contain anything, for example the URL of the node with its key.
    return (
        _UNVERIFIED if "executionreverted" in message.removesuffix(_BARE) else NO_REASON
    )


def _find_revert_data(fields: Mapping[str, object]) -> bytes | None:
    for text in _find_texts(fields.get("data")):
        match = re.search(r"\b0x((?:[0-9a-fA-F]{2})+)\Z", text)
        if match:
            return bytes.fromhex(match[1])
    return None


def _find_texts(data: object) -> Iterator[str]:
    # Most clients send hex here; OpenEthereum prefixes "Reverted ", and Hardhat and
    # gateways nest it in objects.
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for key in ("data", "result", "originalError"):
            yield from _find_texts(data.get(key))


def _map_rejection(code: int | None, message: str) -> ChainError:
    if _ALREADY_KNOWN.search(message):
        return AlreadyKnownError("the node has the transaction already")
    for reason, pattern in _REASONS.items():
        if pattern.search(message):
            return BroadcastRejectedError(
                f"the node rejected the transaction: {reason}", reason=reason
            )
    if _BUSY.search(message) or code in _NODE_ERRORS or code is None:
        return CannotAnswerError(
            f"the node accepts no transaction now{_format_code(code)}"
        )
    return BroadcastRejectedError(
        f"the node rejected the transaction{_format_code(code)}", reason="other"
    )


def _compare_nonces(message: object) -> str:
    """Return the normalized message for two nonces that the node only lists."""
    match = _NONCES.search(message) if isinstance(message, str) else None
    if match is None or match[1] == match[2]:
        return ""
    return "noncetoolow" if int(match[1]) < int(match[2]) else "noncetoohigh"


def _normalize(message: object) -> str:
    return re.sub(r"[^a-z]", "", message.lower()) if isinstance(message, str) else ""


def _code(fields: Mapping[str, object]) -> int | None:
    code = fields.get("code")
    return code if type(code) is int and abs(code) < _LARGEST_CODE else None


def _format_code(code: int | None) -> str:
    return "" if code is None else f" (code {code})"


NO_REASON = "the contract gave no reason"

# Solidity, "Panic via assert and Error via require".
_PANICS = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow or underflow",
    0x12: "division by zero",
    0x21: "invalid enum value",
    0x22: "invalid encoded byte array in storage",
    0x31: "pop of an empty array",
    0x32: "array index out of bounds",
    0x41: "out of memory",
    0x51: "call of an uninitialised function",
}

_ERROR_STRING = bytes.fromhex("08c379a0")
_PANIC = bytes.fromhex("4e487b71")
_SELECTOR_LENGTH = 4
_LONGEST_REASON = 200


def revert_reason(data: bytes) -> str:
    """
    Return the reason for a revert as text.

    *data* is the return data of the contract: empty, ``Error(string)``,
    ``Panic(uint256)``, or a custom error, of which only the selector is returned.

    >>> revert_reason(bytes.fromhex("75e91ce7"))
    'custom error 0x75e91ce7'
    """
    selector, arguments = data[:_SELECTOR_LENGTH], data[_SELECTOR_LENGTH:]
    if len(selector) < _SELECTOR_LENGTH:
        return NO_REASON
    try:
        if selector == _ERROR_STRING:
            return printable(_decode_text(arguments))
        if selector == _PANIC:
            (number,) = decode(["uint256"], arguments)
            return f"panic 0x{number:02x}: {_PANICS.get(number, 'unknown')}"
    except (DecodingError, OverflowError):
        pass
    return f"custom error 0x{selector.hex()}"


def printable(text: str) -> str:
    """Return *text* on one line, without control characters, 200 characters at most."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(clean.split())[:_LONGEST_REASON] or NO_REASON


def _decode_text(arguments: bytes) -> str:
    # As bytes and without checking the padding: contracts may use other encodings.
    (text,) = decode(["bytes"], arguments, strict=False)
    return bytes(text).decode(errors="replace")
