"""
When is what nodes say a fact?  Pure rules over their answers.

With three or more nodes, when the majority of the *configured* ones says so, so that
one that is dead, late or lying decides nothing.  One or two cannot outvote anybody:
there it takes all that answer.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from signer.ports import Block, MinedTransaction, Receipt


_T = TypeVar("_T")
_H = TypeVar("_H", bound=Hashable)

_SMALLEST_PARLIAMENT = 3


def votes_needed(configured: int, answered: int) -> int:
    """
    Return how many answers it takes, of *configured* nodes of which some answered.

    >>> [votes_needed(n, n) for n in (1, 2, 3, 4, 5)]
    [1, 2, 2, 3, 3]
    """
    if configured < _SMALLEST_PARLIAMENT:
        return max(answered, 1)
    return configured // 2 + 1


@dataclass(frozen=True, slots=True)
class QuorumRule(Generic[_T]):
    """
    How answers become a fact, and which answer is a lie in its light.

    ``decide`` takes the answers, of which there are enough, and the votes needed.
    ``contradicts`` takes an answer and the fact.  To be behind is no contradiction.
    ``hears_all``: who has not answered yet could change the fact, whatever the others
    say alike.
    """

    decide: Callable[[Sequence[_T], int], _T]
    contradicts: Callable[[_T, _T], bool]
    hears_all: bool = False


def alike(answers: Sequence[_H | None], votes: int) -> _H | None:
    """
    Return what enough nodes say alike; None when it is nothing, or undecided.

    >>> alike(["a", None, "a"], 2), alike(["a", None], 2)
    ('a', None)
    """
    return next(
        (
            answer
            for answer in answers
            if answer is not None and answers.count(answer) >= votes
        ),
        None,
    )


def each_alike(answers: Sequence[Mapping[str, _H]], votes: int) -> Mapping[str, _H]:
    """Return the entries that enough nodes have alike."""
    decided = {
        key: alike([answer.get(key) for answer in answers], votes)
        for answer in answers
        for key in answer
    }
    return {key: value for key, value in decided.items() if value is not None}


def reached(counts: Sequence[int], votes: int) -> int:
    """
    Return the highest count that enough nodes have reached.

    >>> reached([7, 9, 1000], 2)
    9
    """
    return sorted(counts, reverse=True)[votes - 1]


def reached_block(heads: Sequence[Block], votes: int) -> Block:
    """
    Return the highest block that enough nodes have reached.

    Its number is a fact; its hash is what most of the nodes that stand there say.
    """
    number = reached([head.number for head in heads], votes)
    there = [head for head in heads if head.number == number]
    return max(there, key=there.count)


def _differs(answer: _H | None, fact: _H | None) -> bool:
    return answer is not None and fact is not None and answer != fact


def _differs_somewhere(answer: Mapping[str, _H], fact: Mapping[str, _H]) -> bool:
    return any(_differs(answer.get(key), value) for key, value in fact.items())


def _never(answer: object, fact: object) -> bool:
    return False


RECEIPT: QuorumRule[Receipt | None] = QuorumRule(alike, _differs)
TRANSACTION: QuorumRule[MinedTransaction | None] = QuorumRule(alike, _differs)
BLOCK: QuorumRule[Block | None] = QuorumRule(alike, _differs)
PAST_COUNT: QuorumRule[int | None] = QuorumRule(alike, _differs)
"""What enough nodes say alike, and nothing else."""

RECEIPTS: QuorumRule[Mapping[str, Receipt]] = QuorumRule(each_alike, _differs_somewhere)
"""The same, entry by entry."""

COUNT: QuorumRule[int] = QuorumRule(reached, _never)
HEAD: QuorumRule[Block] = QuorumRule(reached_block, _never)
"""What only grows: as far as enough nodes have come."""

PENDING_COUNT: QuorumRule[int] = QuorumRule(
    lambda counts, _: max(counts), _never, hears_all=True
)
"""What must not be missed: as far as anybody has come, if enough answer."""
