"""What addresses hold of the coin and of the token, block by block."""

from collections import Counter
from collections.abc import Callable, Mapping

from tests.simulation.wire import Wire


STAKE = {"coin": 10**18, "token": 10**15}
"""What every address has at first: base units of the token, and wei."""

Coffer = tuple[str, str]
"""An asset, and whose it is."""

Moved = Mapping[Coffer, int]
"""What came since the beginning, less what went."""

Held = Callable[[str, str], int]
"""What somebody has of an asset: asset, address."""


def can_buy(held: Held, wire: Wire) -> bool:
    """Say whether the sender of *wire* has the coin for all that it may cost."""
    return held("coin", wire.sender) >= wire.value + wire.max_fee * wire.gas_limit


def can_pay(held: Held, wire: Wire) -> bool:
    """Say whether the sender of *wire* has the tokens that it moves."""
    amount = 0 if wire.payment is None else wire.payment[1]
    return held("token", wire.sender) >= amount


def move(moved: Counter[Coffer], wire: Wire, price: int, *, succeeded: bool) -> None:
    """Take what *wire* costs at that *price* of gas, and what it moves if it does."""
    moved["coin", wire.sender] -= wire.gas_limit * min(wire.max_fee, price + wire.tip)
    if not succeeded:
        return
    moved["coin", wire.sender] -= wire.value
    moved["coin", wire.to] += wire.value
    if wire.payment is not None:
        recipient, amount = wire.payment
        moved["token", wire.sender] -= amount
        moved["token", recipient] += amount
