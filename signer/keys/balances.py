"""What an address holds on each chain, as far as the nodes answer in time."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from signer.amounts import format_units
from signer.chain.chain import COIN_DECIMALS, Chain
from signer.deadline import Deadlines
from signer.errors import ChainUnavailableError, HotWalletError


_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class AddressBalance:
    """
    What an address holds on one network.

    ``gas`` is the coin that pays for gas, ``tokens`` are by symbol; both are decimal
    strings in whole units.  ``nonce`` is the next one, pools included.  ``error`` is a
    code where the nodes did not answer, and all else is unknown then.
    """

    network: str
    gas: str | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    nonce: int | None = None
    error: str | None = None

    @property
    def is_funded(self) -> bool:
        """Whether it can pay for gas, and holds some of each token."""
        amounts = [self.gas or "0", *self.tokens.values()]
        return self.error is None and not any(map(_is_nothing, amounts))

    def warnings(self) -> Iterator[str]:
        """Say what would keep refunds from being paid."""
        if self.error is not None:
            yield f"{self.network}: the address's funds are not known ({self.error})"
            return
        if _is_nothing(self.gas or "0"):
            yield f"{self.network}: the new address has no coin to pay for gas"
        for symbol, amount in self.tokens.items():
            if _is_nothing(amount):
                yield f"{self.network}: the new address holds no {symbol}"
        if self.nonce:
            yield (
                f"{self.network}: the new address has sent {self.nonce} transactions;"
                " refunds wait until a worker has looked at those it does not know"
            )


class BalanceReader:
    """Looks at all networks at once."""

    def __init__(self, chains: Mapping[str, Chain], deadlines: Deadlines) -> None:
        self._chains = chains
        self._deadlines = deadlines

    def __call__(self, address: str) -> tuple[AddressBalance, ...]:
        """Return what *address* holds on each network, within a few seconds."""
        begun = {
            name: self._deadlines.start(
                partial(_holding, name, chain, address),
                name=f"survey-{name}",
            )
            for name, chain in self._chains.items()
        }
        until = time.monotonic() + _SECONDS  # For all of them together.
        found = []
        for name, pending in begun.items():
            if pending.wait(until - time.monotonic()):
                found.append(pending.result())
            else:
                found.append(AddressBalance(name, error=ChainUnavailableError.code))
        return tuple(found)


def _is_nothing(amount: str) -> bool:
    return not amount.strip("0.")


def _holding(name: str, chain: Chain, address: str) -> AddressBalance:
    client = chain.client
    try:
        return AddressBalance(
            name,
            gas=format_units(client.balance(address), COIN_DECIMALS),
            tokens={
                symbol: format_units(
                    chain.token_balance(token.address, address), token.decimals
                )
                for symbol, token in chain.network.tokens.items()
            },
            nonce=client.pending_count(address),
        )
    except HotWalletError as e:
        return AddressBalance(name, error=e.code)
