"""What a command shows of tenants; the API has no route for it."""

# ruff: noqa: N815  Members of these documents are in camel case.

from collections.abc import Mapping
from typing import Any

from api.views.administration import read_evidence
from api.views.document import Document, Timestamp, says


class TenantDocument(Document):
    """A tenant and its block."""

    tenant: str = says("The tenant's name.", "name")
    subjects: list[str] = says("Its subjects.", "tenant.subjects")
    clientIds: list[str] = says("Its clients.", "tenant.client_ids")
    blockedAt: Timestamp | None = says("When it was blocked.")
    blockedBy: str | None = says("By whom.")
    blockReason: str | None = says("Why.")
    alert: str | None = says("The alert of the rule that blocked it.")
    evidence: dict[str, Any] | None = says("Why the rule blocked it.")
    authentic: bool = says("False if another program changed the block.")

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        """Return the block, which there may not be."""
        block = source.block
        return {
            "blockedAt": block and block.at,
            "blockedBy": block and block.requested_by,
            "blockReason": block and block.reason,
            "alert": block and block.alert,
            "evidence": block and read_evidence(block),
            "authentic": block is None or block.is_authentic,
        }
