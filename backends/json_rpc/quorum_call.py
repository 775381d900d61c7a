"""One question to several nodes at once: who answered what, and what follows."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Generic, TypeVar

from backends.json_rpc.quorum_rules import QuorumRule, votes_needed
from backends.json_rpc.tracked_node import TrackedNode
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
)


_T = TypeVar("_T")

# When nodes give different reasons, the one that has seen more of the chain is right.
_PRECEDENCE = (
    "nonce-too-low",
    "underpriced",
    "insufficient-funds",
    "nonce-too-high",
    "other",
)


class QuorumCall(Generic[_T]):
    """
    The answers to one question, as they come in.

    Args:
        running: Whose answer each future will be.
        configured: How many nodes there are, asked or not.
    """

    def __init__(
        self, running: Mapping["Future[_T]", TrackedNode], configured: int
    ) -> None:
        self.answers: dict[TrackedNode, _T] = {}
        self._running = dict(running)
        self._configured = configured
        self._problems: list[ChainError] = []

    def wait(self, patience: float, is_enough: Callable[[], bool]) -> None:
        """Collect answers for *patience* seconds, or until *is_enough*."""
        deadline = time.monotonic() + patience
        while self._running and not is_enough():
            remaining = max(deadline - time.monotonic(), 0)
            done, _ = wait(self._running, remaining, FIRST_COMPLETED)
            if not done:
                problem = ChainUnavailableError("the node did not answer in time")
                self._problems.append(problem)
                for witness in self._running.values():
                    witness.rest()
                return
            for future in done:
                self._take(future, self._running.pop(future))

    def has_answer(self) -> bool:
        """Say whether anybody answered."""
        return bool(self.answers)

    def is_settled(self) -> bool:
        """Say whether so many answered, and alike, that the others change nothing."""
        given = list(self.answers.values())
        return len(given) >= votes_needed(self._configured, self._configured) and all(
            answer == given[0] for answer in given
        )

    def answer(self) -> _T:
        """
        Return the first answer.

        Raises:
            ChainError: There is none.
        """
        for answer in self.answers.values():
            return answer
        raise most_telling(self._problems)

    def fact(self, rule: QuorumRule[_T]) -> _T:
        """
        Return what *rule* makes of the answers, and distrust who contradicts it.

        Raises:
            ChainError: There are too few answers.
        """
        votes = votes_needed(self._configured, len(self.answers))
        if not self.answers:
            raise most_telling(self._problems)
        if len(self.answers) < votes:
            raise ChainUnavailableError("too few nodes answered to be sure")
        fact = rule.decide(list(self.answers.values()), votes)
        for witness, answer in self.answers.items():
            if rule.contradicts(answer, fact):
                witness.distrust("contradiction")
        for future, witness in self._running.items():
            if not future.cancel():
                # It has started; the verdict on its answer does not keep us waiting.
                future.add_done_callback(partial(_judge, witness, rule, fact))
        return fact

    def _take(self, future: "Future[_T]", witness: TrackedNode) -> None:
        try:
            self.answers[witness] = future.result()
        except ChainError as e:
            self._problems.append(e)


def most_telling(problems: list[ChainError]) -> ChainError:
    """
    Return the error that says most about what will be.

    A revert or a node's refusal is worth more than another's silence; and while one
    node may answer later, trying again makes sense.
    """
    return min(problems, key=_rank)


def _rank(error: ChainError) -> tuple[int, int]:
    if isinstance(error, ExecutionRevertedError):
        return 0, 0
    if isinstance(error, BroadcastRejectedError):
        return 1, _PRECEDENCE.index(error.reason)
    return 2, not error.retryable


def _judge(
    witness: TrackedNode, rule: QuorumRule[_T], fact: _T, future: "Future[_T]"
) -> None:
    if future.exception() is None and rule.contradicts(future.result(), fact):
        witness.distrust("contradiction")
