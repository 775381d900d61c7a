"""
A thief of the database role of ``serve --role sign``, without MAC and signing keys.

The role accepts refunds, and reads the ring.  It moves no refund, and lifts no stop.
"""

import pytest

from tests.fixtures.roles import Processes, Roles
from tests.support.theft import DELETIONS_OF_EVENTS, DENIED, DENIED_TO_ALL, Thief


OTHERS = (
    # Move, cancel or finish a refund.
    "UPDATE refunds SET state = 'confirmed'",
    "UPDATE refunds SET nonce = 7",
    "UPDATE transactions SET status = 'reserved'",
    "INSERT INTO transactions DEFAULT VALUES",
    "DELETE FROM transactions",
    "SELECT * FROM transaction_payments",
    "INSERT INTO transaction_payments DEFAULT VALUES",
    "DELETE FROM transaction_payments",
    "UPDATE refunds SET cancel_requested_at = now()",
    "UPDATE refunds SET calldata = '\\x00'",
    "INSERT INTO attempts DEFAULT VALUES",
    # Choose a key, lift a stop, a block or a pause, approve, or read signed requests.
    "INSERT INTO keys DEFAULT VALUES",
    "UPDATE keys SET state = 'active'",
    "UPDATE holds SET ended_at = now()",
    "UPDATE wallets SET paused_by = NULL",
    "UPDATE approvals SET state = 'approved'",
    "UPDATE accepted_limits SET document = ''",
    "SELECT * FROM request_signatures",
    "SELECT * FROM used_tokens",
    "SELECT * FROM webhook_deliveries",
    # Number audit records.
    "UPDATE audit_records SET sequence = 1",
    "INSERT INTO audit_checkpoints DEFAULT VALUES",
)


@pytest.mark.parametrize("statement", [*DENIED_TO_ALL, *DELETIONS_OF_EVENTS, *OTHERS])
def test_a_denied_statement(
    shipped: Roles, processes: Processes, statement: str
) -> None:
    """What is left are new refunds without a valid MAC, which wait."""
    processes.refunds.accepted()

    assert Thief(shipped.of("sign")).steal(statement) == DENIED
