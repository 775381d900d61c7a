"""
What stands against a sweep that was accepted: the ring has turned, or fees have risen.

A sweep moves what was there, to whoever was active then.  When either has changed it
ends, with a code, and a person asks for another one: it never waits for its time, in
which it would pay an address that was given up meanwhile.
"""

from collections.abc import Iterable
from typing import Any

from signer.model.key import Key, KeyState
from signer.model.refund import Refund


Objection = dict[str, Any]
"""Why a refund ends, as its row has it."""


def outdated(refund: Refund, ring: Iterable[Key]) -> Objection | None:
    """
    Return why a sweep must not be signed as *ring* stands; None where it may.

    The one address that it may pay is the active key's, which is not the swept one's.
    """
    states = {key.address: key.state for key in ring}
    if states.get(refund.recipient) is not KeyState.ACTIVE:
        return _because(
            "sweep-outdated",
            "it pays an address that is not the active key's any more: sweep again",
        )
    # With a nonce it has been signed, and may be mined yet: that is for a person.
    if refund.nonce is None and states.get(str(refund.swept_from)) is KeyState.BLOCKED:
        return _because("sweep-key-blocked", "its key was given up as compromised")
    return None


def unaffordable(
    refund: Refund, balance: int, *, gas: int, max_fee: int
) -> Objection | None:
    """Return why *balance* does not pay a sweep at *max_fee*; None where it does."""
    value = refund.amount if refund.is_coin else 0
    if balance >= value + gas * max_fee:
        return None
    return _because(
        "sweep-unaffordable",
        "its address holds too little coin at the fees of today: sweep again",
    )


def _because(code: str, detail: str) -> Objection:
    return {"failure_code": code, "failure_detail": detail}
