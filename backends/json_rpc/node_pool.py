"""All nodes of one network, in one process: who is asked, and whose word counts."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from web3 import Web3

from backends.json_rpc.node_status import no_view
from backends.json_rpc.quorum_call import QuorumCall, most_telling
from backends.json_rpc.quorum_rules import QuorumRule, alike, votes_needed
from backends.json_rpc.tracked_node import TrackedNode
from signer.errors import ChainError, ChainUnavailableError
from signer.ports import NodeView


_T = TypeVar("_T")

Question = Callable[[Web3], _T]


class Look(Protocol):
    """A question to the node called *name*, whose answer nobody votes on."""

    def __call__(self, node: Web3, /, *, name: str) -> NodeView:
        """Ask it."""


class NodePool:
    """
    Asks the witnesses: one after another, or all at once.

    Args:
        witnesses: At least one, the preferred one first.  An only one is always
            asked; of several, those that lied of late are not, and those that did
            not answer of late are asked last.
        patience: Seconds to wait for answers when all are asked at once.
    """

    def __init__(self, witnesses: Sequence[TrackedNode], patience: float) -> None:
        self._witnesses = tuple(witnesses)
        self._patience = patience

    def first(self, question: Question[_T]) -> _T:
        """
        Ask one after another; return the first answer.

        A contract's revert is an answer once nobody says otherwise: a node that is
        behind, or lies, shall not turn down what another one would do.

        Raises:
            ChainError: Nobody answered.
        """
        return next(self.each(question))

    def each(self, question: Question[_T]) -> Iterator[_T]:
        """
        Ask one after another, as long as the caller wants to hear more.

        Raises:
            ChainError: Nobody answered.
        """
        problems, answered = list[ChainError](), False
        for witness in self._in_order():
            try:
                answer = witness.ask(question)
            except ChainError as e:
                problems.append(e)
            else:
                answered = True
                yield answer
        if not answered:
            raise most_telling(problems)

    def decide(self, question: Question[_T], rule: QuorumRule[_T]) -> _T:
        """
        Ask all at once; return the fact that *rule* makes of their answers.

        Raises:
            ChainError: Nobody answered, or too few to be sure.
        """
        if len(self._witnesses) == 1:
            return rule.decide([self._witnesses[0].ask(question)], 1)
        poll = self._poll(self._jury(), question)
        poll.wait(self._patience, _never if rule.hears_all else poll.is_settled)
        return poll.fact(rule)

    def any(self, question: Question[_T]) -> _T:
        """
        Ask all at once; return the first answer, and let the others finish.

        Raises:
            ChainError: Nobody answered.
        """
        if len(self._witnesses) == 1:
            return self._witnesses[0].ask(question)
        poll = self._poll(self._in_order(), question)
        poll.wait(self._patience, poll.has_answer)
        return poll.answer()

    def chain_id(self) -> int:
        """
        Return the id that the nodes believe in, whatever was expected of them.

        Raises:
            ChainError: They are of different chains, and there is no majority.
            ChainUnavailableError: Nobody answered.
        """
        if len(self._witnesses) == 1:
            return self._witnesses[0].chain_id()
        running = {witness.submit_chain_id(): witness for witness in self._witnesses}
        poll = QuorumCall(running, len(running))
        poll.wait(self._patience, _never)
        poll.answer()
        given = list(poll.answers.values())
        votes = min(votes_needed(len(running), len(given)), len(given))
        fact = alike(given, votes)
        if fact is None:
            raise ChainError(f"the nodes are of different chains: {sorted(set(given))}")
        for witness, answer in poll.answers.items():
            if answer != fact:
                witness.distrust("chain-id")
        return fact

    def views(self, look: Look) -> Sequence[NodeView]:
        """
        Ask all at once, those too whose word does not count; return what each shows.

        Nobody is outvoted, and who does not answer has a view that says so.
        """
        running = {
            witness: witness.submit(partial(look, name=witness.name))
            for witness in self._witnesses
        }
        wait(running.values(), self._patience)
        return [self._view(witness, future) for witness, future in running.items()]

    def _view(self, witness: TrackedNode, future: "Future[NodeView]") -> NodeView:
        problem: ChainError = ChainUnavailableError("the node did not answer in time")
        try:
            seen = future.result(timeout=0)
        except TimeoutError:
            future.cancel()  # What has not begun is spared the node.
        except ChainError as e:
            problem = e
        else:
            # What an only node says counts, whatever it said before.
            trusted = len(self._witnesses) == 1 or witness.is_trusted
            return replace(seen, trusted=trusted)
        return no_view(witness.name, problem, trusted=witness.is_trusted)

    def _poll(
        self, witnesses: Sequence[TrackedNode], question: Question[_T]
    ) -> QuorumCall[_T]:
        running = {witness.submit(question): witness for witness in witnesses}
        return QuorumCall(running, len(self._witnesses))

    def _in_order(self) -> Sequence[TrackedNode]:
        if len(self._witnesses) == 1:
            return self._witnesses
        trusted = [witness for witness in self._witnesses if witness.is_trusted]
        if not trusted:
            raise ChainUnavailableError("no node is trusted at the moment")
        return sorted(trusted, key=lambda witness: not witness.is_rested)

    def _jury(self) -> Sequence[TrackedNode]:
        # Without those that would keep everybody waiting, if it works without them.
        called = self._in_order()
        rested = [witness for witness in called if witness.is_rested]
        return (
            rested if len(rested) >= votes_needed(len(self._witnesses), 1) else called
        )


def _never() -> bool:
    return False
