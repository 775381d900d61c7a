"""An explanation in two sentences: why it stands there, and what comes next."""

from typing import TYPE_CHECKING

from signer.chain.fees import GWEI
from signer.errors import KeyUnusableError
from signer.model.refund import Status


if TYPE_CHECKING:
    from signer.refunds.explain import Explanation


# What a person can do about an error that keeps a refund where it is.
ADVICE = {
    "insufficient-funds": "top up the wallet: its token, or the coin that pays for gas",
    "broadcast-rejected": "see what the nodes say: the wallet may lack coin for gas",
    "limit-reached": "nothing, or raise the token's limits in the networks file",
    "wallet-paused": "run `hotwallet nonce repair --dry-run`, or `nonce resume`",
    "backend-access-denied": "let the service's role sign with the key again",
    "key-unusable": "enable the key, or bring back the one that the nonce belongs to",
    "key-not-found": "bring the key back",
    "policy-violation": "compare the networks file with what it was at acceptance",
    "configuration": "put the refund's network back into the networks file",
}

GIVEN_UP = (
    "leave its key as it is, for it was given up: a person finds out whether the refund"
    " is paid (docs/how-to/key-compromise.md)"
)
"""What there is to do instead where nobody signs any more, whatever the device says."""

_WAIT = "nothing; it is tried again by itself"


def summary(found: "Explanation") -> str:
    """Return one sentence: why the refund stands where it stands."""
    refund = found.refund
    tell = {
        Status.QUEUED: _queued,
        Status.BROADCAST: _broadcast,
        Status.MINED: _mined,
    }.get(refund.status)
    if tell is not None:
        sentence = tell(found)
    else:
        sentence = {
            Status.RESERVED: f"It has nonce {refund.nonce}, and is not signed yet",
            Status.SIGNED: "It is signed, and no node has taken it yet",
            Status.CONFIRMED: f"It was paid in block {refund.block_number}",
            Status.CANCELLED: "Its client cancelled it before it had a nonce",
            Status.REFUSED: f"Nothing was paid or spent: {refund.failure_detail}",
            Status.FAILED: f"Its nonce is used, and it was not paid:"
            f" {refund.failure_detail}",
        }[refund.status]
    if refund.blocked_by is None:
        return f"{sentence}."
    return (
        f"{sentence}; the last {refund.attempts} attempts failed, most recently with"
        f" {refund.blocked_by}."
    )


def next_step(found: "Explanation") -> str:
    """Return one sentence: what happens next, or what somebody must do."""
    refund = found.refund
    if refund.status.is_final:
        return "Nothing."
    if refund.blocked_by == KeyUnusableError.code and found.is_given_up:
        return f"To do: {GIVEN_UP}."
    if refund.blocked_by is not None:
        return f"To do: {ADVICE.get(refund.blocked_by, _WAIT)}."
    if refund.status is Status.BROADCAST:
        return _after_broadcast(found)
    return {
        Status.QUEUED: "A worker simulates it and reserves its nonce.",
        Status.RESERVED: "A worker signs it.",
        Status.SIGNED: "A worker hands its bytes to the nodes.",
        Status.MINED: "It is confirmed when its block is deep enough.",
    }[refund.status]


def _queued(found: "Explanation") -> str:
    if found.stopped_at is not None:
        since = found.stopped_at.isoformat(timespec="seconds")
        return f"No nonce is given out: an operator stopped the network at {since}"
    standing = found.standing
    if standing is not None and standing.wallet.paused_by is not None:
        return (
            f"No nonce is given out: the wallet is paused by"
            f" {standing.wallet.paused_by}"
        )
    return "It has no nonce yet"


def _broadcast(found: "Explanation") -> str:
    if found.ahead:
        first = found.ahead[0]
        return (
            f"Its nonce {found.refund.nonce} waits for nonce {first.nonce}, which"
            f" refund {first.id} has ({first.status})"
        )
    bid = found.bid
    if bid is not None and bid.base_fee is not None and bid.max_fee < bid.base_fee:
        return (
            f"It offers {_gwei(bid.max_fee)} gwei per gas at most, and the chain asks"
            f" {_gwei(bid.base_fee)}"
        )
    mined = sum("mined" in node.transactions.values() for node in found.nodes)
    if mined:
        return (
            f"{mined} of {len(found.nodes)} nodes have it in a block, which no worker"
            " has looked at yet"
        )
    known = sum("pending" in node.transactions.values() for node in found.nodes)
    return f"{known} of {len(found.nodes)} nodes know it, and it waits to be mined"


def _mined(found: "Explanation") -> str:
    if found.head is None:
        return f"It is in block {found.refund.block_number}"
    depth = found.head - (found.refund.block_number or 0) + 1
    return (
        f"It is in block {found.refund.block_number}, with {max(depth, 0)} of"
        f" {found.confirmations} confirmations"
    )


def _after_broadcast(found: "Explanation") -> str:
    bid = found.bid
    if bid is not None and bid.required is None:
        return (
            f"The same bytes are sent again; a better offer would pass the cap of"
            f" {_gwei(bid.cap)} gwei."
        )
    if bid is not None:
        return (
            "The same bytes are sent again; from"
            f" {bid.raise_at.isoformat(timespec='seconds')} on, at a higher price."
        )
    return "The same bytes are sent again."


def _gwei(wei: int) -> str:
    whole, rest = divmod(wei, GWEI)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
