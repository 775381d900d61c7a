"""
When responses of several nodes become a result: pure rules.

With three or more nodes, a majority of the *configured* nodes must agree, so that one
node that is down, lagging or lying decides nothing.  With one or two nodes there is no
majority against one: all that respond must agree.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from signer.ports import Block, MinedTransaction, Receipt


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
    ``contradicts`` takes a response and the result; lagging is not a contradiction.
    ``waits_for_all``: a missing response could change the result even where all
    others agree.
    """

    decide: Callable[[Sequence[_T], int], _T]
    contradicts: Callable[[_T, _T], bool]
    waits_for_all: bool = False


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


def agreed_entries(
    responses: Sequence[Mapping[str, _H]], quorum: int
) -> Mapping[str, _H]:
    """Return the entries that *quorum* nodes agree on."""
    decided = {
        key: agreed([response.get(key) for response in responses], quorum)
        for response in responses
        for key in response
    }
    return {key: value for key, value in decided.items() if value is not None}


def reached(counts: Sequence[int], quorum: int) -> int:
    """
    Return the highest count that *quorum* nodes have reached.

    >>> reached([7, 9, 1000], 2)
    9
    """
    return sorted(counts, reverse=True)[quorum - 1]


def reached_block(heads: Sequence[Block], quorum: int) -> Block:
    """
    Return the highest block that *quorum* nodes have reached.

    Its hash is the most common one among the nodes whose head has this number.
    """
    number = reached([head.number for head in heads], quorum)
    candidates = [head for head in heads if head.number == number]
    return max(candidates, key=candidates.count)


def _differs(response: _H | None, result: _H | None) -> bool:
    return response is not None and result is not None and response != result


def _differs_somewhere(response: Mapping[str, _H], result: Mapping[str, _H]) -> bool:
    return any(_differs(response.get(key), value) for key, value in result.items())


def _never(response: object, result: object) -> bool:
    return False


RECEIPT: QuorumRule[Receipt | None] = QuorumRule(agreed, _differs)
TRANSACTION: QuorumRule[MinedTransaction | None] = QuorumRule(agreed, _differs)
BLOCK: QuorumRule[Block | None] = QuorumRule(agreed, _differs)
PAST_COUNT: QuorumRule[int | None] = QuorumRule(agreed, _differs)
"""A quorum must agree on the value."""

RECEIPTS: QuorumRule[Mapping[str, Receipt]] = QuorumRule(
    agreed_entries, _differs_somewhere
)
"""A quorum must agree on each entry."""

COUNT: QuorumRule[int] = QuorumRule(reached, _never)
HEAD: QuorumRule[Block] = QuorumRule(reached_block, _never)
"""Values that only grow: the highest one that a quorum has reached."""

PENDING_COUNT: QuorumRule[int] = QuorumRule(
    lambda counts, _: max(counts), _never, waits_for_all=True
)
"""The highest count of any node, if a quorum responds: none may be missed."""
