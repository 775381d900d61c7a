"""Errors as JSON (RFC 9457)."""

from typing import Annotated

from pydantic import Field

from api.views.document import Document, RefundId, Timestamp, says, text


class ProblemDocument(Document):
    """An error (RFC 9457). Decide by `code`; `/problems/{code}` explains it."""

    type: Annotated[str, text(format="uri-reference")] = says(
        "The path of the page that explains the code."
    )
    title: str = says("The code in words.")
    status: Annotated[
        int, Field(json_schema_extra={"minimum": 400, "maximum": 599})
    ] = says("The HTTP status.")
    code: str = says("A stable code.")
    detail: str = says("What is wrong with this request.", optional=True)
    request_id: str = says("Names the request in the service's log.")
    field: str = says("The field, parameter or header that is wrong.", optional=True)
    rule: str = says(
        """
        With `policy-violation`: the rule that refused: `network` (it is unknown),
        `token` (unknown on this network), `min-amount`, `max-amount`, or
        `recipient-denied` (the operator's list or screening service denies it).
        """,
        optional=True,
    )
    reason: str = says(
        "With `new-key-unhealthy`: the code of the failure.", optional=True
    )
    error: str = says("With `new-key-unhealthy`: the same in words.", optional=True)
    message: str = says(
        "With `new-key-unhealthy`: the failure in words.", optional=True
    )
    digest: Annotated[str, text(pattern="^[0-9a-f]{64}$")] = says(
        "With `approval-required`: the proposal.", optional=True
    )
    expires_at: Timestamp = says(
        "With `approval-required`: when the proposal expires.", optional=True
    )
    refund_id: RefundId = says(
        """
        With `conflict` and `idempotency-mismatch`: the caller's earlier refund that
        has the reference or the key.
        """,
        optional=True,
    )
