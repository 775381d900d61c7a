"""A signature needs a log that is shipped; and a log is compared with that."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from signer.audit.comparison import Comparison
from signer.audit.export import header_line
from signer.audit.hash_chain import GENESIS
from signer.audit.shipping import ShippingCondition
from signer.errors import AuditNotShippedError
from signer.model.audit_record import AuditShipping
from signer.ports.ledger import Ledger
from tests.fixtures.ledger import forge
from tests.support.audit import ORIGIN, VERIFIER, chain, chain_lines, checkpoint
from tests.support.refunds import FakeClock


LINKS = chain(5)


@dataclass
class Process:
    """A process that may sign for ten seconds after all was shipped."""

    store: Ledger
    clock: FakeClock
    row: AuditShipping | None = None

    def __post_init__(self) -> None:
        longest = timedelta(seconds=10)
        timer = lambda: self.clock().timestamp()  # noqa: E731
        self.require = ShippingCondition(self.store, longest, self.clock, timer)

    def ship(self, *, place: str = "file:///place") -> None:
        new = AuditShipping(1, place, 0, GENESIS, self.clock())
        self.row = self.store.keep_shipping(self.row, new)

    def may_sign(self, *, after: float = 0) -> bool:
        self.clock.advance(seconds=after)
        try:
            self.require()
        except AuditNotShippedError:
            return False
        return True


@pytest.fixture
def process(empty: Callable[[], Ledger], clock: FakeClock) -> Process:
    return Process(empty(), clock)


def test_signatures_need_that_all_was_shipped_lately(process: Process) -> None:
    """A process does not sign later than the row permits, however old its reading."""
    never = process.may_sign()
    process.ship()
    may = [process.may_sign(after=seconds) for seconds in (0, 9.9, 0.1)]
    process.ship()

    assert (never, may, process.may_sign()) == (False, [True, True, False], True)


def test_a_clock_that_was_put_back_permits_nothing(process: Process) -> None:
    """What was shipped by the time of the wrong clock is not all of today's."""
    process.clock.advance(seconds=4)  # Processes read the ledger's clock apart.
    process.ship()
    process.clock.advance(seconds=-4)
    small = Process(process.store, process.clock).may_sign()
    process.clock.advance(seconds=86_400)
    process.ship()
    process.clock.advance(seconds=-86_400)
    other = Process(process.store, process.clock)
    wrong = [other.may_sign(after=seconds) for seconds in (0, 5, 60)]
    process.ship()

    assert (small, wrong, other.may_sign()) == (True, [False, False, False], True)


def test_a_row_that_another_program_wrote_permits_nothing(process: Process) -> None:
    process.ship()
    later = "complete_at = '2099-01-01T00:00:00.000000+00:00', version = version + 1"
    forge(process.store, f"UPDATE audit_shipping SET {later}")

    assert not process.may_sign()


def test_a_log_that_is_not_shipped_any_more_permits_nothing(process: Process) -> None:
    process.ship(place="")

    assert not process.may_sign()


def _compare(shipped: int, other: list[bytes]) -> Comparison:
    comparison = Comparison()
    lines = [header_line(ORIGIN), *chain_lines(LINKS[:shipped])]
    assert list(comparison.remember(lines)) == lines
    assert list(comparison.compare(other)) == other
    return comparison


def test_a_log_that_goes_on_after_the_shipped_one_is_the_same() -> None:
    same = _compare(3, [header_line(ORIGIN), *chain_lines(LINKS)])

    assert (same.difference(), same.unshipped) == (None, 2)


def test_a_missing_end_and_the_first_other_record_are_differences() -> None:
    short = _compare(5, chain_lines(LINKS[:3]))
    lines = [*chain_lines(LINKS[:2]), *chain_lines(chain(5))[2:]]
    forked = _compare(5, lines)
    missing, other = short.difference(), forked.difference()

    assert missing is not None
    assert (missing.code, missing.sequence, short.unshipped) == ("missing", 4, 0)
    assert other is not None
    assert (other.code, other.sequence, other.line) == ("forked", 3, 3)


def test_the_checkpoints_of_a_trusted_key_are_selected() -> None:
    ours = checkpoint(LINKS, 2).note

    assert VERIFIER.select(["forged", ours]) == [ours]
