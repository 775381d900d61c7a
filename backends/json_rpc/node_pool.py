"""The nodes of one network: which are asked, and which responses count."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from backends.json_rpc.node import Node
from backends.json_rpc.quorum import (
    QuorumCall,
    QuorumRule,
    agreed,
    most_informative,
    quorum_size,
)
from backends.json_rpc.tracked_node import TrackedNode, build_error_status
from signer.errors import ChainError, ChainUnavailableError, require
from signer.ports.chain import NodeStatus


_T = TypeVar("_T")

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
        """Ask all nodes at once; return the result that *rule* derives."""
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
        """Return the chain id of the nodes, also if it is not the configured one."""
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
        """Ask all nodes, distrusted ones too; return the status or error of each."""
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
