"""What the policy decided about one signature."""

from dataclasses import dataclass, field
from enum import StrEnum

from signer.errors import PolicyViolationError
from signer.model.approval_need import ApprovalNeed


SHORT_DIGITS = 16
"""How many hex digits of the policy's hash the records of signatures contain."""


class Verdict(StrEnum):
    """Whether something may be signed."""

    ALLOW = "allow"
    REFUSE = "refuse"
    NEEDS_APPROVAL = "needs-approval"
    """Other people must agree first (``ApprovalNeed``)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """
    The verdict about one *digest* of 32 bytes, and no other.

    ``rules`` are the names of the rules that decided, the most important one first:
    those that permit it, or those that refuse it.  ``policy`` is the hash of the policy
    (SHA-256 in hex), and ``message`` is why it refuses.  ``need`` is what people must
    approve, if the verdict is ``NEEDS_APPROVAL`` or they have approved it.
    """

    verdict: Verdict
    rules: tuple[str, ...]
    policy: str
    digest: bytes = field(repr=False)
    message: str = ""
    need: ApprovalNeed | None = None

    def require_allowed(self) -> None:
        """Raise ``PolicyViolationError`` unless the verdict is ``ALLOW``."""
        if self.verdict is not Verdict.ALLOW:
            raise PolicyViolationError(self.message, rule=self.rule)

    @property
    def rule(self) -> str:
        """The rule that decided, and the first of them if there are several."""
        return self.rules[0]

    def allows(self, digest: bytes) -> bool:
        return self.verdict is Verdict.ALLOW and self.digest == digest

    def details(self) -> dict[str, str]:
        """Return what the audit record of the signature has."""
        return {"policy": self.policy[:SHORT_DIGITS], "rule": self.rule}
