"""
A thief of a database role that may write the rows of wallets.

The roles of the worker and of administrators may: MACs and triggers protect the rows.
"""

import pytest

from tests.fixtures.roles import Processes, Roles
from tests.support.theft import REFUSED, Thief
from tests.support.wallet_attacks import WalletAttacks


@pytest.fixture(params=["worker", "admin"])
def on_wallets(
    request: pytest.FixtureRequest, processes: Processes, shipped: Roles
) -> WalletAttacks:
    """Return the attacks that the thief tries with the role."""
    worlds = processes.worker, processes.refunds, processes.admin
    thief = Thief(getattr(shipped, request.param))
    return WalletAttacks(*worlds, thief.steal)


def test_a_pause_that_the_thief_ends(on_wallets: WalletAttacks) -> None:
    """The wallet stays paused, until it is restored and an operator accepts."""
    on_wallets.end_pause()


def test_a_foreign_transaction_that_the_thief_accepts(
    on_wallets: WalletAttacks,
) -> None:
    """The wallet stays paused."""
    on_wallets.accept_transaction()


def test_a_foreign_transaction_that_the_thief_hides(on_wallets: WalletAttacks) -> None:
    """A thief who can sign as well cannot do so unnoticed."""
    on_wallets.hide_transaction()


def test_an_invented_payment(on_wallets: WalletAttacks) -> None:
    """A refund does not count as paid by a transaction that no process recorded."""
    on_wallets.invent_payment()


def test_an_old_row_of_a_wallet(on_wallets: WalletAttacks) -> None:
    """A copy of a row with its valid MAC cannot end a later pause."""
    assert on_wallets.put_back_wallet() == REFUSED
