"""Which stop forbids a signature."""

import pytest

from signer.model.audit_record import Operation
from signer.model.hold import EVERY_CHAIN, EVERYTHING, UNSTOPPABLE, stopped_by


LARGEST = 2**63 - 1
"""The largest chain id that the databases can store."""


@pytest.mark.parametrize("operation", sorted({*Operation} - UNSTOPPABLE))
def test_a_stop_of_its_chain_or_of_everything_forbids_it(operation: Operation) -> None:
    """No network has a larger id than the largest, so its own stop cannot exist."""
    assert stopped_by(operation, 1) == 1
    assert stopped_by(operation, EVERY_CHAIN) == EVERY_CHAIN
    assert stopped_by(operation, LARGEST) == LARGEST
    assert stopped_by(operation, LARGEST + 1) == EVERYTHING
    assert stopped_by(operation, None) == EVERYTHING


@pytest.mark.parametrize("operation", sorted(UNSTOPPABLE))
def test_no_stop_keeps_a_key_from_being_replaced(operation: Operation) -> None:
    assert stopped_by(operation, None) is None
    assert stopped_by(operation, 1) is None
