"""A configured network together with the client that reaches it."""

from dataclasses import dataclass

from signer.config.networks import Network
from signer.ports import ChainClient, MinedTransaction


@dataclass(frozen=True, slots=True)
class Chain:
    """A configured network, and the way to it."""

    network: Network
    client: ChainClient

    def is_final(self, found: MinedTransaction) -> bool:
        """Say whether *found* is as deep as the network's configuration asks."""
        depth = self.client.latest_block().number - found.block.number + 1
        return depth >= self.network.confirmations
