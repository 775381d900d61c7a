"""A configured network together with the client that reaches its nodes."""

from dataclasses import dataclass
from typing import Protocol

from signer.chain.erc20 import encode_balance_of
from signer.config.networks import Network
from signer.ports.chain import (
    Block,
    Call,
    ChainClient,
    FinalityTag,
    MinedTransaction,
    Receipt,
)


OP_STACK_ORACLE = "0x420000000000000000000000000000000000000F"
"""GasPriceOracle, which each chain of the OP Stack has."""


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
        """Return whether *mined* is in a block that is final."""
        head = self.client.latest_block()
        return mined.block.number <= final_height(self.network, self.client, head)


class _Heads(Protocol):
    def final_block(self, tag: FinalityTag) -> Block: ...


def final_height(network: Network, client: _Heads, head: Block) -> int:
    """
    Return the height up to which blocks are final while *head* is the newest one.

    They have the confirmations that *network* needs.  If it needs more than that, the
    nodes of *client* have to call them safe or finalized as well.
    """
    height = head.number - network.confirmations + 1
    if network.finality == "confirmations" or height < 0:
        return height
    return min(height, client.final_block(network.finality).number)
