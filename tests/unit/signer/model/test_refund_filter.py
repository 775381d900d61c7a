"""What a filter of refunds allows, without a database."""

from datetime import timedelta
from decimal import Decimal

import pytest

from signer.amounts import is_amount
from signer.model.refund import Status
from signer.ports.refund_reports import RefundFilter
from tests.fixtures.ledger import queued


REFUND = queued(amount=1_500_000, decimals=6, tenant="a", network="local")
BEFORE = REFUND.created_at - timedelta(microseconds=1)
AFTER = REFUND.created_at + timedelta(microseconds=1)


@pytest.mark.parametrize(
    "wanted",
    [
        RefundFilter(),
        RefundFilter("a", Status.QUEUED, REFUND.recipient, network="local"),
        RefundFilter(payment_session_id=REFUND.payment_session_id),
        RefundFilter(accepted_from=REFUND.created_at, accepted_before=AFTER),
        RefundFilter(min_amount=Decimal("1.5"), max_amount=Decimal("1.50")),
    ],
)
def test_a_refund_that_fits_is_allowed(wanted: RefundFilter) -> None:
    assert wanted.allows(REFUND)


@pytest.mark.parametrize(
    "wanted",
    [
        RefundFilter("b"),
        RefundFilter(status=Status.CONFIRMED),
        RefundFilter(recipient="0x"),
        RefundFilter(network="other"),
        RefundFilter(payment_session_id="other"),
        RefundFilter(accepted_from=AFTER),
        RefundFilter(accepted_before=REFUND.created_at),
        RefundFilter(accepted_from=BEFORE, accepted_before=BEFORE),
        RefundFilter(min_amount=Decimal("1.500000000000000000000000000000000001")),
        RefundFilter(max_amount=Decimal("1.49")),
    ],
)
def test_a_refund_that_does_not_fit_is_refused(wanted: RefundFilter) -> None:
    assert not wanted.allows(REFUND)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("0", True), ("12.50", True), ("-1", False), ("1e3", False), ("", False)],
)
def test_amounts_are_plain_decimals(text: str, is_one: bool) -> None:
    assert is_amount(text) is is_one
