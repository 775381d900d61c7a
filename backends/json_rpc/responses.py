"""The responses of several nodes to one request, and the result that they give."""

from collections import Counter
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


class Responses(Generic[_T]):
    """
    The nodes' responses to one request, as they arrive.

    *configured* is the number of configured nodes, asked or not.
    """

    def __init__(self, configured: int) -> None:
        self.values: dict[TrackedNode, _T] = {}
        self._configured = configured
        self._errors: list[ChainError] = []

    def add(self, node: TrackedNode, outcome: _T | ChainError) -> None:
        """Add the response of *node*."""
        if isinstance(outcome, ChainError):
            self._errors.append(outcome)
        else:
            self.values[node] = outcome

    def is_settled(self) -> bool:
        """Return whether other responses cannot change the result of a rule."""
        values = list(self.values.values())
        quorum = quorum_size(self._configured, self._configured)
        if len(self._reverts()) >= quorum:
            return True
        return len(values) >= quorum and all(value == values[0] for value in values)

    def is_sent(self) -> bool:
        """
        Return whether a node accepted a broadcast, or a quorum rejected it alike.

        One node cannot change the reason for which the others reject.
        """
        quorum = quorum_size(self._configured, self._configured)
        reasons = Counter(error.reason for error in self._rejections())
        return bool(self.values) or any(n >= quorum for n in reasons.values())

    def first(self) -> _T:
        """
        Return the first response.

        Raises:
            ChainError: There is none.
        """
        for value in self.values.values():
            return value
        raise most_informative(self._errors)

    def accepted(self) -> _T:
        """
        Return the first response to a broadcast.

        Raises:
            BroadcastRejectedError: A quorum of nodes rejects it.
            ChainUnavailableError: No node accepted it, and too few responded.
        """
        rejections = self._rejections()
        if self.values or not rejections:
            return self.first()
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
        quorum = quorum_size(self._configured, len(self.values))
        reverts = self._reverts()
        responded = len(self.values) + len(reverts)
        if reverts and len(reverts) >= quorum_size(self._configured, responded):
            raise reverts[0]
        if not responded:
            raise most_informative(self._errors)
        if len(self.values) < quorum:
            raise ChainUnavailableError("too few nodes responded for a quorum")
        result = rule.decide(list(self.values.values()), quorum)
        for node, value in self.values.items():
            if rule.contradicts(value, result):
                node.distrust("contradiction")
        return result

    def _reverts(self) -> list[ExecutionRevertedError]:
        return [e for e in self._errors if isinstance(e, ExecutionRevertedError)]

    def _rejections(self) -> list[BroadcastRejectedError]:
        return [e for e in self._errors if isinstance(e, BroadcastRejectedError)]


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
