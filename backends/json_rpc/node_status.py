"""What a single node says of a wallet and its transactions: seen, not voted on."""

from collections.abc import Sequence
from typing import cast

from eth_typing import HexStr
from web3 import Web3
from web3.exceptions import TransactionNotFound

from backends.json_rpc import parsing as readings
from backends.json_rpc import requests as questions
from backends.json_rpc.error_mapping import CannotAnswerError
from backends.json_rpc.node import MethodCall, Node
from backends.json_rpc.parsing import Found, integer
from backends.json_rpc.tracked_node import OtherChainError
from signer.errors import ChainError, ChainUnavailableError
from signer.ports import NodeView, Whereabouts


def view(node: Web3, *, name: str, sender: str, tx_hashes: Sequence[str]) -> NodeView:
    """
    Ask the node called *name* what it says, in as few exchanges as it takes.

    ``pending`` is None where the node does not tell it: some have no pool to show.
    """
    hashes = list(dict.fromkeys(tx_hash.lower() for tx_hash in tx_hashes))
    with cast("Node", node.provider).batch(_calls(sender, hashes)):
        return NodeView(
            name,
            trusted=True,
            head=integer(node.eth.block_number),
            counted=questions.transaction_count(node, sender),
            pending=_pending(node, sender),
            transactions={tx_hash: _whereabouts(node, tx_hash) for tx_hash in hashes},
        )


def no_view(name: str, problem: ChainError, *, trusted: bool) -> NodeView:
    """Return the view of a node that showed nothing because of *problem*."""
    # The start-up guard's word for it, and no error's.
    elsewhere = isinstance(problem, OtherChainError)
    error = "chain-misconfigured" if elsewhere else problem.code
    return NodeView(name, trusted, error=error)


def _calls(sender: str, tx_hashes: Sequence[str]) -> Sequence[MethodCall]:
    return [
        ("eth_blockNumber", []),
        ("eth_getTransactionCount", [sender, "latest"]),
        ("eth_getTransactionCount", [sender, "pending"]),
        *(("eth_getTransactionByHash", [tx_hash]) for tx_hash in tx_hashes),
    ]


def _pending(node: Web3, sender: str) -> int | None:
    try:
        return questions.pending_count(node, sender)
    except ChainError as e:
        if isinstance(e, ChainUnavailableError) and not isinstance(
            e, CannotAnswerError
        ):
            raise
        return None


def _whereabouts(node: Web3, tx_hash: str) -> Whereabouts:
    try:
        found: Found = node.eth.get_transaction(HexStr(tx_hash))
    except (TransactionNotFound, CannotAnswerError):
        # geth has not looked, either, while it builds its index.
        return "unknown"
    return readings.whereabouts(found, tx_hash)
