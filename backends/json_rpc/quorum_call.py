"""One call to several nodes at once: collects outcomes and derives the results."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Generic, TypeVar

from backends.json_rpc.outcomes import attempt
from backends.json_rpc.quorum_rules import QuorumRule
from backends.json_rpc.responses import Responses
from backends.json_rpc.tracked_node import TrackedNode
from signer.errors import ChainError, ChainUnavailableError


_T = TypeVar("_T")


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
