"""One node as we judge it: is it on our chain, does it answer, does it lie?"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import structlog
from web3 import Web3

from backends.json_rpc import requests as questions
from backends.json_rpc.error_mapping import CannotAnswerError
from signer.errors import ChainError, ChainUnavailableError


_T = TypeVar("_T")

# How long a node is asked nothing after it lied, and after it did not answer.
_DISTRUST_SECONDS = 60.0
_REST_SECONDS = 10.0

# More requests at a time than that wait for each other; idle threads are reused.
_THREADS = 16


class OtherChainError(ChainError):
    """The node is on another chain than ours."""


class TrackedNode:
    """
    A node, called by its *place* among the configured ones, from 1.

    Before its word counts it must be on the chain *chain_id* (None: whichever), and
    again whenever it has been away.
    """

    def __init__(
        self,
        web3: Web3,
        place: int,
        chain_id: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._web3 = web3
        self._clock = clock
        self._place = place
        self._chain_id = chain_id
        self._proven = chain_id is None
        self._trusted_from = 0.0
        self._rested_from = 0.0
        self._executor = ThreadPoolExecutor(_THREADS, f"chain-node-{place}")

    @property
    def name(self) -> str:
        """How people call it, since its URL is a secret."""
        return f"node-{self._place}"

    @property
    def is_trusted(self) -> bool:
        """Whether it did not lie of late."""
        return self._clock() >= self._trusted_from

    @property
    def is_rested(self) -> bool:
        """Whether it did not fail to answer of late."""
        return self._clock() >= self._rested_from

    def ask(self, question: Callable[[Web3], _T]) -> _T:
        """
        Return what the node answers.

        Raises:
            ChainError: It is on another chain, said no, or did not answer.
        """
        try:
            if not self._proven:
                self._prove()
            return questions.ask(question, self._web3)
        except CannotAnswerError:
            raise
        except questions.LyingNodeError:
            self.distrust("impossible-answer")
            raise
        except ChainUnavailableError:
            self.rest()
            raise

    def submit(self, question: Callable[[Web3], _T]) -> "Future[_T]":
        """Ask in another thread.  A node that hangs holds up nobody but itself."""
        return self._executor.submit(self.ask, question)

    def chain_id(self) -> int:
        """Ask for the chain's id, whatever was expected."""
        return questions.ask(questions.chain_id, self._web3)

    def submit_chain_id(self) -> "Future[int]":
        """Ask for the chain's id, in another thread."""
        return self._executor.submit(self.chain_id)

    def rest(self) -> None:
        """Ask it last for a while.  Whoever comes back may be somebody else."""
        self._rested_from = self._clock() + _REST_SECONDS
        self._proven = self._chain_id is None

    def distrust(self, reason: str) -> None:
        """Ask it nothing for a while, and tell whoever reads the log."""
        told = not self.is_trusted
        self._trusted_from = self._clock() + _DISTRUST_SECONDS
        self._proven = self._chain_id is None
        if not told:
            # By its place, since its URL is a secret.
            structlog.get_logger("chain").warning(
                "node-distrusted",
                node=self._place,
                chain_id=self._chain_id,
                reason=reason,
            )

    def _prove(self) -> None:
        if self.chain_id() != self._chain_id:
            self.distrust("chain-id")
            raise OtherChainError(f"node {self._place} is on another chain")
        self._proven = True
