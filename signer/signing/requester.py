"""Who asks for a signature."""

from dataclasses import dataclass

from signer.config.tenants import NO_LIMITS, Tenant
from signer.model.audit_record import Actor
from signer.policy.facts import Caller


@dataclass(frozen=True, slots=True)
class Requester:
    """
    Who asks for a signature: *caller* as rules see it, *actor* as the audit names it.

    *limits* are those of the caller's tenant.
    """

    caller: Caller
    actor: Actor
    limits: Tenant = NO_LIMITS
