"""The assets of one network: its tokens, and its coin."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from signer.amounts import format_units
from signer.chain.chain import COIN_DECIMALS
from signer.config.networks import Network
from signer.model.refund import COIN, COIN_ADDRESS
from signer.ports.book_reader import BookToken


@dataclass(frozen=True, slots=True)
class Asset:
    """A token by its contract's address, or the coin (``COIN_ADDRESS``)."""

    address: str
    symbol: str
    decimals: int

    def format(self, units: int) -> str:
        """Return *units*, which may be negative, in whole tokens."""
        sign = "-" if units < 0 else ""
        return sign + format_units(abs(units), self.decimals)


COIN_ASSET = Asset(COIN_ADDRESS, COIN, COIN_DECIMALS)


class Assets:
    """The assets of one network, by address."""

    def __init__(self, tokens: Mapping[str, Asset]) -> None:
        self._by_address = {**tokens, COIN_ADDRESS: COIN_ASSET}
        self.tokens = tuple(tokens)

    @classmethod
    def of(cls, network: Network, refunded: Iterable[BookToken]) -> Self:
        """Return those of the configuration, and of the ledger's refunds."""
        used = {
            each.address: Asset(each.address, each.symbol, each.decimals)
            for each in refunded
            if each.address != COIN_ADDRESS
        }
        configured = {
            token.address: Asset(token.address, symbol, token.decimals)
            for symbol, token in network.tokens.items()
        }
        return cls({**used, **configured})

    def __iter__(self) -> Iterator[Asset]:
        return iter(self._by_address.values())

    def __getitem__(self, address: str) -> Asset:
        return self._by_address[address]

    def format(self, address: str, units: int) -> str:
        """Return *units* of an asset in whole tokens, with its symbol."""
        asset = self[address]
        return f"{asset.format(units)} {asset.symbol}"
