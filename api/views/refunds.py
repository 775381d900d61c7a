"""Refunds as JSON."""

from datetime import UTC, datetime
from typing import Any

from signer.amounts import format_units
from signer.model.refund import Refund


def refund_document(refund: Refund) -> dict[str, Any]:
    """Return *refund* as JSON for its tenant; amounts in whole tokens."""
    failure = None
    # A refund that is being replaced by a no-op has a reason but has not failed yet.
    if refund.failure_code is not None and refund.status.is_final:
        failure = {"code": refund.failure_code, "detail": refund.failure_detail}
    return {
        **fields(refund, "id", "status", "reference", "payment_session_id"),
        **fields(refund, "network", "chain_id", "token", "token_address", "recipient"),
        "amount": format_units(refund.amount, refund.decimals),
        "calldata": None if refund.calldata is None else f"0x{refund.calldata.hex()}",
        **fields(refund, "reason", "sender", "nonce", "tx_hash", "block_number"),
        "failure": failure,
        **fields(refund, "created_at", "updated_at", "cancel_requested_at"),
    }


def fields(source: object, *names: str) -> dict[str, Any]:
    """Return the attributes *names* of *source*, with times as ``timestamp``."""
    values = {name: getattr(source, name) for name in names}
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def timestamp(moment: datetime) -> str:
    # RFC 3339; always UTC and always of one length, so that text sorts by time.
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")


def format_time(moment: datetime | None) -> str:
    """Return *moment* in UTC, to the second; a dash for None."""
    if moment is None:
        return "-"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
