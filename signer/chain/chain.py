"""A configured network together with the client that reaches its nodes."""

from dataclasses import dataclass

from signer.chain.erc20 import encode_balance_of
from signer.config.networks import Network
from signer.ports.chain import Call, ChainClient, MinedTransaction, Receipt


COIN_DECIMALS = 18
"""Decimals of a chain's native coin: balances and fees are in wei."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A network from the configuration, and the client for its nodes."""

    network: Network
    client: ChainClient

    def token_balance(self, token: str, owner: str) -> int:
        """Return how much *owner* holds of the contract *token*, in base units."""
        data = self.client.call(Call(None, token, encode_balance_of(owner)))
        return int.from_bytes(data, "big")

    def is_final(self, mined: MinedTransaction | Receipt) -> bool:
        """Return whether *mined* has the confirmations that the network needs."""
        depth = self.client.latest_block().number - mined.block.number + 1
        return depth >= self.network.confirmations
