"""The nodes of one network: which are asked, and which responses count."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog

from backends.json_rpc import parsing, requests
from backends.json_rpc.error_mapping import CannotAnswerError
from backends.json_rpc.node import MethodCall, Node
from backends.json_rpc.parsing import quantity
from backends.json_rpc.quorum import (
    QuorumCall,
    QuorumRule,
    agreed,
    most_informative,
    quorum_size,
)
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
        """
        Return the node's response to *request*.

        Raises:
            ChainError: It is on another chain, refused, or did not respond.
        """
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


Request = Callable[[Node], _T]

BatchRequest = Callable[[Node], Sequence[_T | ChainError]]
"""Several requests to a node; returns the outcome of each, errors as values."""


class StatusRequest(Protocol):
    """A request for the status of the node called *name*, without a quorum."""

    def __call__(self, node: Node, /, *, name: str) -> NodeStatus: ...


class NodePool:
    """
    Sends requests to the nodes of one network, one after another or all at once.

    Methods raise ``ChainError`` if no node responded, and ``statuses`` never raises.

    Args:
        nodes: At least one, the preferred one first.  A single node is always asked.
            Of several, distrusted ones are skipped, and those that recently did not
            respond are asked last.
        timeout: Seconds to wait for responses when all are asked at once.
    """

    def __init__(self, nodes: Sequence[TrackedNode], timeout: float) -> None:
        self._nodes = tuple(nodes)
        self._timeout = timeout

    def each(self, request: Request[_T]) -> Iterator[_T]:
        """Ask one node after another, as long as the caller iterates."""
        errors, responded = list[ChainError](), False
        for node in self._order_nodes():
            try:
                response = node.send(request)
            except ChainError as e:
                errors.append(e)
            else:
                responded = True
                yield response
        if not responded:
            raise most_informative(errors)

    def decide(self, request: Request[_T], rule: QuorumRule[_T]) -> _T:
        """
        Ask all nodes at once; return the result that *rule* derives.

        Raises:
            ChainError: Too few nodes responded for a quorum.
        """
        (result,) = self.decide_all(lambda node: [request(node)], [rule])
        return require(result)

    def decide_all(
        self, request: BatchRequest[_T], rules: Sequence[QuorumRule[_T]]
    ) -> list[_T | ChainError]:
        """
        Ask all nodes at once; return the result that each rule derives, or its error.

        Raises:
            ChainUnavailableError: No node is trusted.
        """
        call = QuorumCall[_T](len(self._nodes), len(rules))
        nodes = self._select_nodes()
        self._ask(nodes, request, call, call.is_settled)
        return call.decide(rules)

    def send_to_all(
        self, request: BatchRequest[_T], count: int
    ) -> list[_T | ChainError]:
        """
        Send *count* transactions to all nodes at once; return the first responses.

        Other nodes get them too, but their responses are not waited for.  A transaction
        that no node accepted so far has the ``BroadcastRejectedError`` of a quorum in
        its place, or another ``ChainError``.

        Raises:
            ChainUnavailableError: No node is trusted.
        """
        call = QuorumCall[_T](len(self._nodes), count)
        self._ask(self._order_nodes(), request, call, call.is_sent)
        return call.accepted()

    def chain_id(self) -> int:
        """
        Return the chain id of the nodes, also if it is not the configured one.

        Raises:
            ChainError: The nodes are on different chains, without a majority.
        """
        if len(self._nodes) == 1:
            return self._nodes[0].chain_id()
        call = QuorumCall[int](len(self._nodes), 1)
        pending = {node.submit_chain_id(): node for node in self._nodes}
        call.wait(pending, self._timeout, lambda: False)
        (responses,) = call.responses
        responses.first()
        ids = list(responses.values.values())
        quorum = min(quorum_size(len(pending), len(ids)), len(ids))
        result = agreed(ids, quorum)
        if result is None:
            raise ChainError(f"the nodes are on different chains: {sorted(set(ids))}")
        for node, chain_id in responses.values.items():
            if chain_id != result:
                node.distrust("chain-id")
        return result

    def statuses(self, request: StatusRequest) -> Sequence[NodeStatus]:
        """
        Ask all nodes at once, distrusted ones too; return the status of each.

        A node that does not respond has a status with an error.
        """
        pending = {
            node: node.submit(partial(request, name=node.name)) for node in self._nodes
        }
        wait(pending.values(), self._timeout)
        return [self._status(node, future) for node, future in pending.items()]

    def _status(self, node: TrackedNode, future: "Future[NodeStatus]") -> NodeStatus:
        error: ChainError = ChainUnavailableError("the node did not respond in time")
        try:
            status = future.result(timeout=0)
        except TimeoutError:
            future.cancel()  # Spares the node a request that has not started.
        except ChainError as e:
            error = e
        else:
            # A single node is always trusted, since there is no other to ask.
            trusted = len(self._nodes) == 1 or node.is_trusted
            return replace(status, trusted=trusted)
        return build_error_status(node.name, error, trusted=node.is_trusted)

    def _ask(
        self,
        nodes: Sequence[TrackedNode],
        request: BatchRequest[_T],
        call: QuorumCall[_T],
        is_enough: Callable[[], bool],
    ) -> None:
        if len(self._nodes) == 1:
            (node,) = nodes
            call.collect(node, partial(node.send_all, request))
        else:
            pending = {node.submit_all(request): node for node in nodes}
            call.wait(pending, self._timeout, is_enough)

    def _order_nodes(self) -> Sequence[TrackedNode]:
        if len(self._nodes) == 1:
            return self._nodes
        trusted = [node for node in self._nodes if node.is_trusted]
        if not trusted:
            raise ChainUnavailableError("no node is trusted at the moment")
        return sorted(trusted, key=lambda node: not node.is_responsive)

    def _select_nodes(self) -> Sequence[TrackedNode]:
        # Unresponsive nodes would delay the call: skip them if a quorum remains.
        ordered = self._order_nodes()
        responsive = [node for node in ordered if node.is_responsive]
        if len(responsive) >= quorum_size(len(self._nodes), 1):
            return responsive
        return ordered
