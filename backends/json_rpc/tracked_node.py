"""One node with its reputation: right chain, responsive, trusted."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from backends.json_rpc import parsing, requests
from backends.json_rpc.error_mapping import CannotAnswerError
from backends.json_rpc.node import MethodCall, Node
from backends.json_rpc.parsing import quantity
from signer.errors import ChainError, ChainUnavailableError, require
from signer.ports.chain import NodeStatus, TransactionState


def request_status(
    node: Node, *, name: str, sender: str | None, tx_hashes: Sequence[str]
) -> NodeStatus:
    """Request a node's status in one batch; ``pending`` is None if it has no pool."""
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


_T = TypeVar("_T")

# How long a node is skipped after an impossible response, and asked last after it did
# not respond.
_DISTRUST_SECONDS = 60.0
_UNRESPONSIVE_SECONDS = 10.0

# Further requests wait in a queue; idle threads are reused.
_THREADS = 16


def node_name(position: int) -> str:
    """Return the name of the node at *position*, counted from 1."""
    return f"node-{position}"


class OtherChainError(ChainError):
    """The node is on another chain than the configured one."""


class TrackedNode:
    """
    A node, identified by its *position* in the configuration, counted from 1.

    Before its responses count, it must report *chain_id* (None: any chain), and again
    after each time that it was unresponsive or distrusted.
    """

    def __init__(
        self,
        node: Node,
        position: int,
        chain_id: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._clock = clock
        self._position = position
        self._chain_id = chain_id
        self._is_checked = chain_id is None
        self._trusted_from = 0.0
        self._responsive_from = 0.0
        self._executor = ThreadPoolExecutor(_THREADS, f"chain-node-{position}")

    @property
    def name(self) -> str:
        """The name that logs and operators see, since the URL is a secret."""
        return node_name(self._position)

    @property
    def is_trusted(self) -> bool:
        """Whether its recent responses were possible and not contradicted."""
        return self._clock() >= self._trusted_from

    @property
    def is_responsive(self) -> bool:
        """Whether it recently responded in time."""
        return self._clock() >= self._responsive_from

    def send(self, request: Callable[[Node], _T]) -> _T:
        """Return the node's response to *request*; raises ``ChainError``."""
        try:
            if not self._is_checked:
                self._check_chain_id()
            return requests.send(request, self._node)
        except ChainError as e:
            self._judge(e)
            raise

    def send_all(
        self, request: Callable[[Node], Sequence[_T | ChainError]]
    ) -> Sequence[_T | ChainError]:
        """Return the node's outcomes of *request*, as values; raises as ``send``."""
        outcomes = self.send(request)
        for outcome in outcomes:
            if isinstance(outcome, ChainError):
                self._judge(outcome)
        return outcomes

    def submit(self, request: Callable[[Node], _T]) -> "Future[_T]":
        """Send *request* in a thread of this node, so that it delays no other node."""
        return self._executor.submit(self.send, request)

    def submit_all(
        self, request: Callable[[Node], Sequence[_T | ChainError]]
    ) -> "Future[Sequence[_T | ChainError]]":
        """As ``submit``, for ``send_all``."""
        return self._executor.submit(self.send_all, request)

    def chain_id(self) -> int:
        """Return the chain id of the node, also if it is not the configured one."""
        return requests.send(requests.chain_id, self._node)

    def submit_chain_id(self) -> "Future[Sequence[int | ChainError]]":
        """Request the chain id, as the only outcome, in a thread of this node."""
        return self._executor.submit(lambda: [self.chain_id()])

    def mark_unresponsive(self) -> None:
        """Ask this node last for a while, and check its chain id again after that."""
        self._responsive_from = self._clock() + _UNRESPONSIVE_SECONDS
        self._is_checked = self._chain_id is None

    def distrust(self, reason: str) -> None:
        """Skip this node for a while, and log why."""
        was_trusted = self.is_trusted
        self._trusted_from = self._clock() + _DISTRUST_SECONDS
        self._is_checked = self._chain_id is None
        if was_trusted:
            structlog.get_logger("chain").warning(
                "node-distrusted",
                node=self._position,
                chain_id=self._chain_id,
                reason=reason,
            )

    def _judge(self, error: ChainError) -> None:
        """Remember what *error* says about this node."""
        if isinstance(error, requests.ImpossibleResponseError):
            self.distrust("impossible-answer")
        elif isinstance(error, ChainUnavailableError) and not isinstance(
            error, CannotAnswerError
        ):
            self.mark_unresponsive()

    def _check_chain_id(self) -> None:
        if self.chain_id() != self._chain_id:
            self.distrust("chain-id")
            raise OtherChainError(f"node {self._position} is on another chain")
        self._is_checked = True
