"""The default policy, and decisions of it for tests that sign any digest."""

from dataclasses import replace

from signer.config.tenants import TenantRegistry
from signer.model.audit_record import Purpose
from signer.model.decision import Decision, Verdict
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy


# Its rules are the same for all networks; compiling them takes a while.
SERVICE_POLICY = Policy.compile(service_files({}, TenantRegistry()))


def permitted(digest: bytes, purpose: Purpose) -> Purpose:
    """Return *purpose* with a decision that allows *digest*."""
    decision = Decision(Verdict.ALLOW, ("test",), SERVICE_POLICY.hash, digest)
    return replace(purpose, decision=decision)
