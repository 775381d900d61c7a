"""The rules of the nonce lifecycle, and which records of an audit log break one."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """A rule of the nonce lifecycle; the names are part of the output."""

    ACCEPTED_FIRST = "accepted-first"
    ACCEPTED_ONCE = "accepted-once"
    APPROVED_FIRST = "approved-first"
    SAME_PAYMENT = "same-payment"
    CANCELLED_IS_FINAL = "cancelled-is-final"
    CANCELLED_UNSIGNED = "cancelled-unsigned"
    INTENT_FIRST = "intent-first"
    ONE_NONCE = "one-nonce"
    ONE_OWNER = "one-owner"
    ATTEMPT_ORDER = "attempt-order"
    ACTIVE_KEY_RESERVES = "active-key-reserves"
    REVOKED_KEY_IS_SILENT = "revoked-key-is-silent"
    SWEEP_PAYS_ACTIVE_KEY = "sweep-pays-active-key"
    STOP_IS_SILENT = "stop-is-silent"
    WELL_FORMED = "well-formed"


@dataclass(frozen=True, slots=True)
class Violation:
    """The record, by its sequence number, that breaks *rule*, and how."""

    sequence: int
    record_id: str
    rule: Rule
    message: str

    def __str__(self) -> str:
        return f"record {self.sequence}: {self.rule}: {self.message}"


@dataclass(frozen=True, slots=True)
class Conformance:
    """
    The result of a check.

    ``refunds`` and ``signatures`` were examined.  ``unfinished`` counts intents without
    an outcome, as a process that dies leaves them; they break no rule.
    """

    refunds: int
    signatures: int
    unfinished: int
    violations: Sequence[Violation]

    @property
    def is_good(self) -> bool:
        """Whether no rule is broken."""
        return not self.violations
