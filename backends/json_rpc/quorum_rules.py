"""
When responses of several nodes become a result: pure rules.

With three or more nodes, a majority of the *configured* nodes must agree, so that one
node that is down, lagging or lying decides nothing.  With one or two nodes there is no
majority against one: all that respond must agree.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import median_high, median_low
from typing import Any, Generic, TypeVar

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


def _differs(response: _H | None, result: _H | None) -> bool:
    return response is not None and result is not None and response != result


def _never(response: object, result: object) -> bool:
    return False


TRANSACTION: QuorumRule[MinedTransaction | None] = QuorumRule(agreed, _differs)
BLOCK: QuorumRule[Block | None] = QuorumRule(agreed, _differs)
PAST_COUNT: QuorumRule[int | None] = QuorumRule(agreed, _differs)
RECEIPT: QuorumRule[Receipt | None] = QuorumRule(agreed, _differs)
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
