"""The status of one node: its head, the sender's nonces and transactions."""

from collections.abc import Sequence
from typing import Any

from backends.json_rpc import parsing
from backends.json_rpc.error_mapping import CannotAnswerError
from backends.json_rpc.node import MethodCall, Node
from backends.json_rpc.parsing import quantity
from backends.json_rpc.tracked_node import OtherChainError
from signer.errors import ChainError, ChainUnavailableError
from signer.outcomes import require
from signer.ports.chain import NodeStatus, TransactionState


def request_status(
    node: Node, *, name: str, sender: str | None, tx_hashes: Sequence[str]
) -> NodeStatus:
    """
    Request the status of the node called *name*, in one batch where possible.

    ``pending`` is None if the node does not serve it: some have no pool.
    """
    hashes = list(dict.fromkeys(tx_hash.lower() for tx_hash in tx_hashes))
    calls = [*_list_nonces(sender), *_list_transactions(hashes)]
    head, *results = node.request_all([("eth_blockNumber", []), *calls])
    found = results[len(calls) - len(hashes) :]
    return NodeStatus(
        name,
        trusted=True,
        head=quantity(require(head)),
        counted=None if sender is None else quantity(require(results[0])),
        pending=None if sender is None else _parse_pending(results[1]),
        transactions={
            tx_hash: _parse_state(result, tx_hash)
            for tx_hash, result in zip(hashes, found, strict=True)
        },
    )


def build_error_status(name: str, error: ChainError, *, trusted: bool) -> NodeStatus:
    """Return the status of a node that could not report one because of *error*."""
    # The start-up guard's code for a node on another chain.
    code = "chain-misconfigured" if isinstance(error, OtherChainError) else error.code
    return NodeStatus(name, trusted, error=code)


def _list_nonces(sender: str | None) -> Sequence[MethodCall]:
    if sender is None:
        return ()
    return [
        ("eth_getTransactionCount", [sender, block]) for block in ("latest", "pending")
    ]


def _list_transactions(tx_hashes: Sequence[str]) -> Sequence[MethodCall]:
    return [("eth_getTransactionByHash", [tx_hash]) for tx_hash in tx_hashes]


def _parse_pending(result: Any) -> int | None:
    if isinstance(result, ChainUnavailableError):
        if isinstance(result, CannotAnswerError):
            return None
        raise result
    return None if isinstance(result, ChainError) else quantity(result)


def _parse_state(result: Any, tx_hash: str) -> TransactionState:
    if isinstance(result, CannotAnswerError):
        # geth reports an error while it builds its index of transactions.
        return "unknown"
    return parsing.transaction_state(require(result), tx_hash)
