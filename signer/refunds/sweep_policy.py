"""
Decides whether an accepted sweep must end: its recipient changed, or fees rose.

A sweep moves what was on the address, to the key that was active, when it was accepted.
If either changes it ends with a code, and an administrator requests another one.  It
never waits for better times: it could then pay an address that was revoked meanwhile.
"""

from collections.abc import Iterable
from typing import Any

from signer.model.key import Key, KeyState
from signer.model.refund import Refund
from signer.model.transaction import TransactionKind


Objection = dict[str, Any]
"""Why a refund ends: ``failure_code`` and ``failure_detail`` of its row."""

NO_OBJECTION: Objection = {"failure_code": None, "failure_detail": None}
"""Clears the reason of a refund that does not end after all."""


def find_ring_objection(refund: Refund, ring: Iterable[Key]) -> Objection | None:
    """
    Return why *ring* forbids to sign a sweep; None if it does not.

    A sweep may only pay the active key's address, which is never the swept one.
    """
    states = {key.address: key.state for key in ring}
    if states.get(refund.recipient) is not KeyState.ACTIVE:
        return build_objection(
            "sweep-outdated",
            "its recipient is no longer the active key's address: sweep again",
        )
    # With a nonce, it was signed and may still be mined: an operator must look at it.
    if (
        refund.nonce is None
        and states.get(str(refund.bound_sender)) is KeyState.BLOCKED
    ):
        return build_objection(
            "sweep-key-blocked", "its key was revoked as compromised"
        )
    return None


def find_fee_objection(
    refund: Refund, balance: int, *, gas: int, max_fee: int
) -> Objection | None:
    """Return why *balance* (wei) cannot pay a sweep at *max_fee*; None if it can."""
    value = refund.amount if refund.kind is TransactionKind.COIN else 0
    if balance >= value + gas * max_fee:
        return None
    return build_objection(
        "sweep-unaffordable",
        "its address holds too little coin for the current fees: sweep again",
    )


def build_objection(code: str, detail: str) -> Objection:
    """Return the changes of a refund that ends with *code* and *detail*."""
    return {"failure_code": code, "failure_detail": detail}
