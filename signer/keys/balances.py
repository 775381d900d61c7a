"""Reads what an address holds on each network, within a time limit."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from signer.amounts import COIN_DECIMALS, format_units
from signer.chain.chain import Chain
from signer.deadline import Deadlines
from signer.errors import ChainUnavailableError, HotWalletError


_TIMEOUT_SECONDS = 3.0
"""For all networks together."""


@dataclass(frozen=True, slots=True)
class AddressBalance:
    """
    What an address holds on one network.

    ``gas`` is the balance of the coin that pays for gas, ``tokens`` has the balances by
    token symbol; both are decimal strings in whole units.  The tokens are those of
    ``vault``, if the network has one.  ``nonce`` is the next nonce, counting
    transactions in the nodes' pools.  ``error`` is an error code if the nodes did not
    answer; all other values are unknown then.
    """

    network: str
    gas: str | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    nonce: int | None = None
    error: str | None = None
    vault: str | None = None

    @property
    def is_funded(self) -> bool:
        """Whether it has some of each asset; the tokens of a vault do not count."""
        # A vault that is empty is no reason to go on with a compromised key.
        tokens = self.tokens.values() if self.vault is None else ()
        amounts = [self.gas or "0", *tokens]
        return self.error is None and not any(map(_is_zero, amounts))

    def warnings(self) -> Iterator[str]:
        if self.error is not None:
            yield f"{self.network}: the address's balance is unknown ({self.error})"
            return
        if _is_zero(self.gas or "0"):
            yield f"{self.network}: the new address has no coin for gas"
        holder = "the new address" if self.vault is None else f"the vault {self.vault}"
        for symbol, amount in self.tokens.items():
            if _is_zero(amount):
                yield f"{self.network}: {holder} holds no {symbol}"
        if self.nonce:
            yield (
                f"{self.network}: the new address has sent {self.nonce} transactions;"
                " refunds wait until a worker has reviewed those it does not know"
            )


class BalanceReader:
    """Reads balances on all networks concurrently."""

    def __init__(self, chains: Mapping[str, Chain], deadlines: Deadlines) -> None:
        self._chains = chains
        self._deadlines = deadlines

    def __call__(self, address: str) -> tuple[AddressBalance, ...]:
        started = {
            name: self._deadlines.start(
                partial(_read_balance, name, chain, address), name=f"balance-{name}"
            )
            for name, chain in self._chains.items()
        }
        until = time.monotonic() + _TIMEOUT_SECONDS
        return tuple(
            pending.result()
            if pending.wait(until - time.monotonic())
            else AddressBalance(name, error=ChainUnavailableError.code)
            for name, pending in started.items()
        )


def _is_zero(amount: str) -> bool:
    return not amount.strip("0.")


def _read_balance(name: str, chain: Chain, address: str) -> AddressBalance:
    client, network = chain.client, chain.network
    holder = network.token_holder(address)
    try:
        return AddressBalance(
            name,
            gas=format_units(client.balance(address), COIN_DECIMALS),
            tokens={
                symbol: format_units(
                    chain.token_balance(token.address, holder), token.decimals
                )
                for symbol, token in network.tokens.items()
            },
            nonce=client.pending_count(address),
            vault=network.vault,
        )
    except HotWalletError as e:
        return AddressBalance(name, error=e.code)
