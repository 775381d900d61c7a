"""
What a node's error object means: pure functions from its words to our errors.

JSON-RPC fixes five error codes, and EIP-1474 names a few more; for the rest each
client has its own codes and its own words, and changes them.  So words decide, codes
help where the words are unknown, and neither is ever shown to anybody.
"""

import re
from collections.abc import Iterator, Mapping

from backends.json_rpc.reverts import NO_REASON, revert_reason
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
)


class AlreadyKnownError(ChainError):
    """The node has these bytes already: a success, for whoever sent them."""


class CannotAnswerError(ChainUnavailableError):
    """The node is there, and cannot answer just this question, or not now."""


# JSON-RPC 2.0, section 5.1: parse error, invalid request, no such method, bad params.
_OUR_MISTAKE = frozenset({-32700, -32600, -32601, -32602})

# EIP-1474: resource not found, resource unavailable, limit exceeded; and JSON-RPC's
# internal error, which gateways say of their own troubles.
_NODES_TROUBLE = frozenset({-32001, -32002, -32005, -32603})

_METHOD_NOT_FOUND = -32601

# geth, and most since, say 3; Nethermind and OpenEthereum say -32015.
_REVERTED = frozenset({3, -32015})

_EXECUTING = frozenset({"eth_call", "eth_estimateGas"})

# Words are compared without case, spaces, digits and punctuation, since the same
# error is "already known", "AlreadyKnown" and "ALREADY_EXISTS: already known".
# The first row that fits decides.  The words are those of geth's and Erigon's pools,
# Nethermind's AcceptTxResult, Besu's RpcErrorType, reth, anvil, OpenEthereum, Nitro
# and zkSync.
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
_REASONS = (
    (
        "nonce-too-low",
        re.compile(
            r"noncetoolow|nonceistoolow|oldnonce|poolstale|noncehasalreadybeenused"
            r"|transactionalreadyfinali[sz]ed"
        ),
    ),
    (
        "nonce-too-high",
        re.compile(
            r"noncetoohigh|noncegap|futurenonce|exceedsnextnonce"
            r"|noncetoofarinfuture|noncetoodistant|nonceistoodistant|lowernonceexists"
        ),
    ),
    (
        "underpriced",
        re.compile(
            r"underpriced|feetoolow|gaspricetoolow|gasprice(wei)?istoolow"
            r"|lessthanblockbasefee|belowcurrentbasefee|belowconfiguredminimum"
            r"|replacementnotallowed|couldnotreplaceexistingtx"
            r"|anothertx(which)?hasthesamenonce"
        ),
    ),
    (
        "insufficient-funds",
        re.compile(
            r"insufficientfunds|insufficientbalance|notenoughfunds|upfrontcostexceeds"
        ),
    ),
)

# Ethermint and its children leave it to the reader to compare.
_COUNTED = re.compile(r"invalid nonce; got (\d{1,20}), expected (\d{1,20})\b")

_EXHAUSTED = re.compile(r"outofgas|gasrequiredexceeds|invalidopcode|badinstruction")
_NOT_FOUND = re.compile(r"(block|header).*notfound|unknownblock")

_BARE = "executionreverted"
_UNPROVEN = "the node has words for it, and no return data of the contract"

_LARGEST_CODE = 1_000_000


def translate(method: str, error: object) -> ChainError:
    """
    Return what *error*, the answer to *method*, means to us.

    *error* is the ``error`` member as it came: it may be anything.
    """
    fields: Mapping[str, object] = error if isinstance(error, Mapping) else {}
    code = _code(fields)
    words = _squeezed(fields.get("message"))
    if method in _EXECUTING and _is_revert(code, words):
        return ExecutionRevertedError(_reason(fields, words))
    if method == "eth_sendRawTransaction" and code != _METHOD_NOT_FOUND:
        return _refusal(code, words + _compared(fields.get("message")))
    if code in _OUR_MISTAKE:
        return ChainError(f"the node does not serve {method} (code {code})")
    return CannotAnswerError(f"the node could not answer {method}{_shown(code)}")


def says_not_found(error: object) -> bool:
    """Say whether *error* is a node's way to say that it has no such block."""
    message = error.get("message") if isinstance(error, Mapping) else None
    return _NOT_FOUND.search(_squeezed(message)) is not None


def _is_revert(code: int | None, words: str) -> bool:
    return code in _REVERTED or "revert" in words or bool(_EXHAUSTED.search(words))


def _reason(fields: Mapping[str, object], words: str) -> str:
    for text in _texts(fields.get("data")):
        found = re.search(r"\b0x((?:[0-9a-fA-F]{2})+)\Z", text)
        if found:
            return revert_reason(bytes.fromhex(found[1]))
    if _EXHAUSTED.search(words):
        return "the contract used up all gas"
    # A message may hold anything, as the URL that the node was asked by, with its key.
    return _UNPROVEN if "executionreverted" in words.removesuffix(_BARE) else NO_REASON


def _texts(data: object) -> Iterator[str]:
    # Most put the bytes here as hex; OpenEthereum put "Reverted " before them, and
    # Hardhat and gateways wrap them in objects.
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for key in ("data", "result", "originalError"):
            yield from _texts(data.get(key))


def _refusal(code: int | None, words: str) -> ChainError:
    if _ALREADY_KNOWN.search(words):
        return AlreadyKnownError("the node has the transaction already")
    for reason, pattern in _REASONS:
        if pattern.search(words):
            return BroadcastRejectedError(
                f"the node does not take the transaction: {reason}", reason=reason
            )
    if _BUSY.search(words) or code in _NODES_TROUBLE or code is None:
        return CannotAnswerError(f"the node takes no transaction now{_shown(code)}")
    return BroadcastRejectedError(
        f"the node does not take the transaction{_shown(code)}", reason="other"
    )


def _compared(message: object) -> str:
    """Return in words which of two nonces is lower, where only numbers say so."""
    found = _COUNTED.search(message) if isinstance(message, str) else None
    if found is None or found[1] == found[2]:
        return ""
    return "noncetoolow" if int(found[1]) < int(found[2]) else "noncetoohigh"


def _squeezed(message: object) -> str:
    return re.sub(r"[^a-z]", "", message.lower()) if isinstance(message, str) else ""


def _code(fields: Mapping[str, object]) -> int | None:
    code = fields.get("code")
    return code if type(code) is int and abs(code) < _LARGEST_CODE else None


def _shown(code: int | None) -> str:
    return "" if code is None else f" (code {code})"
