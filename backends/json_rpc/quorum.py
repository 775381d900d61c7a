"""
Asks several nodes at once, and decides when their responses become a result.

With three or more nodes, a majority of the *configured* nodes must agree, so that one
node that is down, lagging or lying decides nothing.  With one or two nodes there is no
majority against one: all that respond must agree.
"""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from statistics import median_high, median_low
from typing import Any, Generic, TypeVar

from backends.json_rpc.parsing import attempt
from backends.json_rpc.tracked_node import TrackedNode
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
)
from signer.ports.chain import Block, Fees, MinedTransaction, Receipt


_T = TypeVar("_T")
_H = TypeVar("_H", bound=Hashable)

_SMALLEST_MAJORITY_POOL = 3


def quorum_size(configured: int, responded: int) -> int:
    """
    Return how many responses are needed, given how many nodes have *responded*.

    >>> [quorum_size(n, n) for n in (1, 2, 3, 4, 5)]
    [1, 2, 2, 3, 3]
    """
    if configured < _SMALLEST_MAJORITY_POOL:
        return max(responded, 1)
    return configured // 2 + 1


@dataclass(frozen=True, slots=True)
class QuorumRule(Generic[_T]):
    """
    How responses become a result, and which responses contradict it.

    ``decide`` takes the responses, of which there are enough, and the quorum.
    Once a quorum of the configured nodes agrees, other responses must not change the
    result: they are not waited for.  ``contradicts`` takes a response and the result;
    lagging is not a contradiction.
    """

    decide: Callable[[Sequence[_T], int], _T]
    contradicts: Callable[[_T, _T], bool]


def agreed(responses: Sequence[_H | None], quorum: int) -> _H | None:
    """
    Return the value that *quorum* nodes agree on; None if there is none.

    >>> agreed(["a", None, "a"], 2), agreed(["a", None], 2)
    ('a', None)
    """
    return next(
        (
            response
            for response in responses
            if response is not None and responses.count(response) >= quorum
        ),
        None,
    )


def reached(counts: Sequence[int], quorum: int) -> int:
    """
    Return the highest count that *quorum* nodes have reached.

    >>> reached([7, 9, 1000], 2)
    9
    """
    return sorted(counts, reverse=True)[quorum - 1]


def highest_of_quorum(counts: Sequence[int], quorum: int) -> int:
    """
    Return the highest count after dropping those that a quorum contradicts.

    With one liar among three responses, the count is within the honest ones.  If no
    more than a quorum responds, none is dropped.

    >>> highest_of_quorum([7, 9, 1000], 2), highest_of_quorum([7, 9], 2)
    (9, 9)
    """
    return sorted(counts)[quorum - 1]


def reached_block(heads: Sequence[Block], quorum: int) -> Block:
    """
    Return the highest block that *quorum* nodes have reached.

    Its hash is the most common one among the nodes whose head has this number.
    """
    number = reached([head.number for head in heads], quorum)
    candidates = [head for head in heads if head.number == number]
    return max(candidates, key=candidates.count)


def lower_median(responses: Sequence[Any], quorum: int) -> Any:
    """
    Return the median; of an even number of responses, the lower one of the two.

    With one liar among three responses, the median is within the honest ones.  Of two
    responses, a liar can only lower it.

    >>> lower_median([21_500, 65_000, 16_000_000], 2)
    65000
    """
    return median_low(responses)


def upper_median(responses: Sequence[int], quorum: int) -> int:
    """
    Return the median; of an even number of responses, the upper one of the two.

    Too little gas would fail on chain.  ``max_gas`` bounds what a liar can add.
    """
    return median_high(responses)


def median_fees(responses: Sequence[Fees | None], quorum: int) -> Fees | None:
    """
    Return the median base fee and the median tip, as ``lower_median``.

    The chain has no base fee only if *quorum* nodes report none.  Return None if too
    few nodes agree on whether it has one.
    """
    for is_legacy in (True, False):
        alike = [fees for fees in responses if fees and fees.is_legacy == is_legacy]
        if len(alike) >= quorum:
            base_fee = median_low(fees.base_fee or 0 for fees in alike)
            tip = median_low(fees.priority_fee for fees in alike)
            return Fees(None if is_legacy else base_fee, tip)
    return None


def _differ_in_kind(response: Fees | None, result: Fees | None) -> bool:
    if response is None or result is None:
        return False
    return response.is_legacy != result.is_legacy


def differs(response: _H | None, result: _H | None) -> bool:
    """Return whether *response* contradicts *result*; None contradicts nothing."""
    return response is not None and result is not None and response != result


def _never(response: object, result: object) -> bool:
    return False


TRANSACTION: QuorumRule[MinedTransaction | None] = QuorumRule(agreed, differs)
BLOCK: QuorumRule[Block | None] = QuorumRule(agreed, differs)
PAST_COUNT: QuorumRule[int | None] = QuorumRule(agreed, differs)
RECEIPT: QuorumRule[Receipt | None] = QuorumRule(agreed, differs)
"""A quorum must agree on the value."""

COUNT: QuorumRule[int] = QuorumRule(reached, _never)
HEAD: QuorumRule[Block] = QuorumRule(reached_block, _never)
"""Values that only grow: the highest one that a quorum has reached."""

LOWER_MEDIAN: QuorumRule[Any] = QuorumRule(lower_median, _never)
UPPER_MEDIAN: QuorumRule[int] = QuorumRule(upper_median, _never)
FEES: QuorumRule[Fees | None] = QuorumRule(median_fees, _differ_in_kind)
"""Values that differ between honest nodes, because their newest blocks do."""

PENDING_COUNT: QuorumRule[int] = QuorumRule(highest_of_quorum, _never)
"""The highest count that no quorum contradicts: none may be missed."""


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


class QuorumCall(Generic[_T]):
    """
    One call with *count* requests, each decided by itself.

    Args:
        configured: The number of configured nodes, asked or not.
    """

    def __init__(self, configured: int, count: int) -> None:
        self.responses = [Responses[_T](configured) for _ in range(count)]
        self._pending: dict[Future[Sequence[_T | ChainError]], TrackedNode] = {}
        self._asked = 0

    def collect(
        self, node: TrackedNode, outcomes: Callable[[], Sequence[_T | ChainError]]
    ) -> None:
        """Add the *outcomes* of *node*; an error that they raise is that of each."""
        received = attempt(outcomes)
        if isinstance(received, ChainError):
            received = [received] * len(self.responses)
        for responses, outcome in zip(self.responses, received, strict=True):
            responses.add(node, outcome)

    def wait(
        self,
        pending: Mapping["Future[Sequence[_T | ChainError]]", TrackedNode],
        timeout: float,
        is_enough: Callable[[], bool],
    ) -> None:
        """Collect the *pending* outcomes of nodes until *is_enough*.

        A node that does not respond within *timeout* seconds is marked unresponsive.
        """
        self._pending = dict(pending)
        self._asked = len(pending)
        deadline = time.monotonic() + timeout
        while self._pending and not is_enough():
            remaining = max(deadline - time.monotonic(), 0)
            done, _ = wait(self._pending, remaining, FIRST_COMPLETED)
            for future in done:
                self.collect(self._pending.pop(future), future.result)
            if not done:
                error = ChainUnavailableError("the node did not respond in time")
                for node in self._pending.values():
                    node.mark_unresponsive()
                    for responses in self.responses:
                        responses.add(node, error)
                return

    def is_settled(self) -> bool:
        """Return whether the other nodes cannot change a result."""
        return all(responses.is_settled() for responses in self.responses)

    def is_sent(self) -> bool:
        """
        Return whether each broadcast was accepted by a node, or rejected by a quorum.

        Also if none of the other nodes responded lately: they get the transactions, but
        those that were accepted must not wait until one of them rejects another.
        """
        if all(responses.is_sent() for responses in self.responses):
            return True
        has_response = len(self._pending) < self._asked
        return has_response and not any(
            node.is_responsive for node in self._pending.values()
        )

    def decide(self, rules: Sequence[QuorumRule[_T]]) -> list[_T | ChainError]:
        """Return each result, or its error, and distrust nodes that contradict one."""
        results = [
            attempt(partial(responses.decide, rule))
            for responses, rule in zip(self.responses, rules, strict=True)
        ]
        for future, node in self._pending.items():
            if not future.cancel():
                # It has started; its outcomes are checked without waiting for them.
                check = partial(
                    _check_late, node, list(zip(rules, results, strict=True))
                )
                future.add_done_callback(check)
        return results

    def accepted(self) -> list[_T | ChainError]:
        """Return the first response to each broadcast, or its error."""
        return [attempt(responses.accepted) for responses in self.responses]


def _check_late(
    node: TrackedNode,
    decided: Sequence[tuple[QuorumRule[_T], _T | ChainError]],
    future: "Future[Sequence[_T | ChainError]]",
) -> None:
    if future.exception() is not None:
        return
    for (rule, result), outcome in zip(decided, future.result(), strict=True):
        if isinstance(result, ChainError) or isinstance(outcome, ChainError):
            continue
        if rule.contradicts(outcome, result):
            node.distrust("contradiction")
