"""What addresses hold of the coin and of the token."""

from collections import Counter
from collections.abc import Callable, Mapping

from tests.simulation.transaction import Transaction


INITIAL = {"coin": 10**18, "token": 10**15}
"""The balance of every address at first, in wei and in base units of the token."""

Account = tuple[str, str]
"""An asset, and an address."""

Changes = Mapping[Account, int]
"""Changes of balances since the beginning."""

BalanceOf = Callable[[str, str], int]
"""Returns the balance of an asset at an address."""


def can_afford(balance_of: BalanceOf, tx: Transaction) -> bool:
    """Whether the sender has the coin for the most that *tx* may cost."""
    return balance_of("coin", tx.sender) >= tx.value + tx.max_fee * tx.gas_limit


def has_tokens(balance_of: BalanceOf, tx: Transaction) -> bool:
    """Whether the sender has the tokens that *tx* moves."""
    amount = 0 if tx.payment is None else tx.payment[1]
    return balance_of("token", tx.sender) >= amount


def apply(
    changes: Counter[Account], tx: Transaction, base_fee: int, *, succeeded: bool
) -> None:
    """Add to *changes* the fee of *tx*, and what it moves if it succeeded."""
    changes["coin", tx.sender] -= tx.gas_limit * min(tx.max_fee, base_fee + tx.tip)
    if not succeeded:
        return
    changes["coin", tx.sender] -= tx.value
    changes["coin", tx.to] += tx.value
    if tx.payment is not None:
        recipient, amount = tx.payment
        changes["token", tx.sender] -= amount
        changes["token", recipient] += amount
