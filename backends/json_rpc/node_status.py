"""The status of one node: its head, the sender's nonces and transactions."""

from collections.abc import Sequence
from typing import cast

from eth_typing import HexStr
from web3 import Web3
from web3.exceptions import TransactionNotFound

from backends.json_rpc import parsing, requests
from backends.json_rpc.error_mapping import CannotAnswerError
from backends.json_rpc.node import MethodCall, Node
from backends.json_rpc.parsing import Result, integer
from backends.json_rpc.tracked_node import OtherChainError
from signer.errors import ChainError, ChainUnavailableError
from signer.ports import NodeStatus, TransactionState


def request_status(
    node: Web3, *, name: str, sender: str, tx_hashes: Sequence[str]
) -> NodeStatus:
    """
    Request the status of the node called *name*, in one batch where possible.

    ``pending`` is None if the node does not serve it: some have no pool.
    """
    hashes = list(dict.fromkeys(tx_hash.lower() for tx_hash in tx_hashes))
    with cast("Node", node.provider).batch(_list_calls(sender, hashes)):
        return NodeStatus(
            name,
            trusted=True,
            head=integer(node.eth.block_number),
            counted=requests.transaction_count(node, sender),
            pending=_request_pending(node, sender),
            transactions={tx_hash: _request_state(node, tx_hash) for tx_hash in hashes},
        )


def build_error_status(name: str, error: ChainError, *, trusted: bool) -> NodeStatus:
    """Return the status of a node that could not report one because of *error*."""
    # The start-up guard's code for a node on another chain.
    code = "chain-misconfigured" if isinstance(error, OtherChainError) else error.code
    return NodeStatus(name, trusted, error=code)


def _list_calls(sender: str, tx_hashes: Sequence[str]) -> Sequence[MethodCall]:
    return [
        ("eth_blockNumber", []),
        ("eth_getTransactionCount", [sender, "latest"]),
        ("eth_getTransactionCount", [sender, "pending"]),
        *(("eth_getTransactionByHash", [tx_hash]) for tx_hash in tx_hashes),
    ]


def _request_pending(node: Web3, sender: str) -> int | None:
    try:
        return requests.pending_count(node, sender)
    except CannotAnswerError:
        return None
    except ChainUnavailableError:
        raise
    except ChainError:
        return None


def _request_state(node: Web3, tx_hash: str) -> TransactionState:
    try:
        result: Result = node.eth.get_transaction(HexStr(tx_hash))
    except (TransactionNotFound, CannotAnswerError):
        # geth reports an error while it builds its index of transactions.
        return "unknown"
    return parsing.transaction_state(result, tx_hash)
