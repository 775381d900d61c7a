"""
Requests stablecoin refunds from hotwallet.

``HotWallet`` has a method for each operation, and repeats a request until it has an
answer; ``AsyncHotWallet`` is the same for asyncio.  ``verify_webhook`` reads the events
that the service sends.  ``models`` has the types of requests and answers, which are
plain dictionaries.
"""

from hotwallet_client.async_client import AsyncHotWallet
from hotwallet_client.client import HotWallet
from hotwallet_client.errors import (
    Action,
    ApiError,
    HotWalletError,
    NotFinalError,
    UnansweredError,
)
from hotwallet_client.models import (
    BatchMember,
    BatchResult,
    Event,
    Preview,
    Problem,
    Refund,
    RefundRequest,
)
from hotwallet_client.requests import FINAL, new_idempotency_key
from hotwallet_client.retries import Retries
from hotwallet_client.webhooks import WebhookError, verify_webhook


__all__ = [
    "FINAL",
    "Action",
    "ApiError",
    "AsyncHotWallet",
    "BatchMember",
    "BatchResult",
    "Event",
    "HotWallet",
    "HotWalletError",
    "NotFinalError",
    "Preview",
    "Problem",
    "Refund",
    "RefundRequest",
    "Retries",
    "UnansweredError",
    "WebhookError",
    "new_idempotency_key",
    "verify_webhook",
]
