"""
What audit events are about, and the names of the events.

Stored records have these names, so a name that was used once is never reused.
"""

from enum import StrEnum


SUCCESS = "success"


class AuditAction(StrEnum):
    """What an event is about; its name adds ``-requested`` or how the action ended."""

    DIGEST_SIGN = "digest-sign"
    KEY_ROTATE = "key-rotate"
    KEY_FUND = "key-fund"
    KEY_FAILOVER = "key-failover"
    KEY_REVOKE = "key-revoke"
    KEY_REINSTATE = "key-reinstate"
    KEY_RETIRE = "key-retire"
    KEY_SWEEP = "key-sweep"
    SIGNING_STOP = "signing-stop"
    SIGNING_RESUME = "signing-resume"
    NONCE_REPAIR = "nonce-repair"
    NONCE_ABANDON = "nonce-abandon"
    TENANT_BLOCK = "tenant-block"
    TENANT_UNBLOCK = "tenant-unblock"
    FOREIGN_TRANSACTION_ACCEPT = "foreign-transaction-accept"
    REFUND_ACCEPT = "refund-accept"
    REFUND_CANCEL = "refund-cancel"
    REFUND_REFUSE = "refund-refuse"
    APPROVAL_REQUEST = "approval-request"
    APPROVAL_GRANT = "approval-grant"
    APPROVAL_BREAK_GLASS = "approval-break-glass"
    APPROVAL_REJECT = "approval-reject"
    APPROVAL_EXPIRE = "approval-expire"
    APPROVAL_USE = "approval-use"
    LEDGER_RESTORE = "ledger-restore"
    LIMITS_ACCEPT = "limits-accept"
    LIMITS_RAISE = "limits-raise"
    ADMIN_ACCESS = "admin-access"
    WEBHOOK_REPLAY = "webhook-replay"
    DOCTOR_RUN = "doctor-run"
    DRILL_RUN = "drill-run"
    SERVICE_START = "service-start"

    @property
    def requested(self) -> str:
        return f"{self}-requested"

    def event_for(self, outcome: str) -> str:
        """Return the name of the event that records *outcome*."""
        return f"{self}-succeeded" if outcome == SUCCESS else f"{self}-refused"


NOT_AUDITED = "further-refusals-not-audited"
"""The outcome in the last record of a minute with too many refusals of one caller.

The log has all of them.  A caller is a tenant, or the subject of an administrative
request; those without a valid token are one subject."""


ALERT_RAISED = "alert-raised"
"""The event of a check that failed, whose alert is the outcome."""


class ConfigurationEvent(StrEnum):
    """The events of a process that starts."""

    LOADED = "configuration-loaded"
    CHANGED = "configuration-changed"


SIGN_REQUESTED = frozenset({AuditAction.DIGEST_SIGN.requested, "signing-intent"})
"""Events of stored records that precede a signature; the last name is the old one."""

SIGN_FINISHED = frozenset({"digest-sign-succeeded", "digest-sign-refused", "signing"})
"""Events of stored records that follow a signature; the last name is the old one."""
