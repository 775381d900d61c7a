"""One request to several nodes at once: collects responses and derives the result."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Generic, TypeVar

from backends.json_rpc.quorum_rules import QuorumRule, quorum_size
from backends.json_rpc.tracked_node import TrackedNode
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
)


_T = TypeVar("_T")

# When nodes give different reasons, the first one of these comes from the node that
# has seen more of the chain.
_PRECEDENCE = (
    "nonce-too-low",
    "underpriced",
    "insufficient-funds",
    "nonce-too-high",
    "other",
)


class QuorumCall(Generic[_T]):
    """
    The responses to one request, as they arrive.

    Args:
        pending: The node of each future response.
        configured: The number of configured nodes, asked or not.
    """

    def __init__(
        self, pending: Mapping["Future[_T]", TrackedNode], configured: int
    ) -> None:
        self.responses: dict[TrackedNode, _T] = {}
        self._pending = dict(pending)
        self._configured = configured
        self._errors: list[ChainError] = []

    def wait(self, timeout: float, is_enough: Callable[[], bool]) -> None:
        """Collect responses for *timeout* seconds, or until *is_enough*."""
        deadline = time.monotonic() + timeout
        while self._pending and not is_enough():
            remaining = max(deadline - time.monotonic(), 0)
            done, _ = wait(self._pending, remaining, FIRST_COMPLETED)
            if not done:
                error = ChainUnavailableError("the node did not respond in time")
                self._errors.append(error)
                for node in self._pending.values():
                    node.mark_unresponsive()
                return
            for future in done:
                self._collect(future, self._pending.pop(future))

    def has_response(self) -> bool:
        """Return whether a node has responded."""
        return bool(self.responses)

    def is_settled(self) -> bool:
        """Return whether the other responses cannot change the result."""
        responses = list(self.responses.values())
        quorum = quorum_size(self._configured, self._configured)
        if len(self._reverts()) >= quorum:
            return True
        return len(responses) >= quorum and all(
            response == responses[0] for response in responses
        )

    def first_response(self) -> _T:
        """
        Return the first response.

        Raises:
            ChainError: There is none.
        """
        for response in self.responses.values():
            return response
        raise most_informative(self._errors)

    def acceptance(self) -> _T:
        """
        Return the first response to a broadcast.

        Raises:
            BroadcastRejectedError: A quorum of nodes rejects it.
            ChainUnavailableError: No node accepted it, and too few responded.
        """
        rejections = [e for e in self._errors if isinstance(e, BroadcastRejectedError)]
        if self.responses or not rejections:
            return self.first_response()
        quorum = quorum_size(self._configured, len(rejections))
        if len(rejections) < quorum:
            raise ChainUnavailableError("too few nodes responded for a quorum")
        reasons = [error.reason for error in rejections]
        for error in rejections:
            if reasons.count(error.reason) >= quorum:
                raise error
        raise most_informative(self._errors)

    def decide(self, rule: QuorumRule[_T]) -> _T:
        """
        Return the result that *rule* derives, and distrust nodes that contradict it.

        Raises:
            ExecutionRevertedError: A quorum of nodes reverts.
            ChainUnavailableError: There are too few responses.
        """
        quorum = quorum_size(self._configured, len(self.responses))
        reverts = self._reverts()
        responded = len(self.responses) + len(reverts)
        if reverts and len(reverts) >= quorum_size(self._configured, responded):
            raise reverts[0]
        if not responded:
            raise most_informative(self._errors)
        if len(self.responses) < quorum:
            raise ChainUnavailableError("too few nodes responded for a quorum")
        result = rule.decide(list(self.responses.values()), quorum)
        for node, response in self.responses.items():
            if rule.contradicts(response, result):
                node.distrust("contradiction")
        for future, node in self._pending.items():
            if not future.cancel():
                # It has started; its response is checked without waiting for it.
                future.add_done_callback(partial(_check_late, node, rule, result))
        return result

    def _reverts(self) -> list[ExecutionRevertedError]:
        return [e for e in self._errors if isinstance(e, ExecutionRevertedError)]

    def _collect(self, future: "Future[_T]", node: TrackedNode) -> None:
        try:
            self.responses[node] = future.result()
        except ChainError as e:
            self._errors.append(e)


def most_informative(errors: list[ChainError]) -> ChainError:
    """
    Return the error that says most about the outcome of a retry.

    A revert or a rejection counts more than a node that did not respond, and a
    retryable error counts more than a final one, since that node may respond later.
    """
    return min(errors, key=_rank)


def _rank(error: ChainError) -> tuple[int, int]:
    if isinstance(error, ExecutionRevertedError):
        return 0, 0
    if isinstance(error, BroadcastRejectedError):
        return 1, _PRECEDENCE.index(error.reason)
    return 2, not error.retryable


def _check_late(
    node: TrackedNode, rule: QuorumRule[_T], result: _T, future: "Future[_T]"
) -> None:
    if future.exception() is None and rule.contradicts(future.result(), result):
        node.distrust("contradiction")
