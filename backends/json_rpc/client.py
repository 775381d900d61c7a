"""The chain client: several nodes of one network behind one port."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr
from web3 import Web3
from web3.middleware import ExtraDataToPOAMiddleware

from backends.json_rpc import questions
from backends.json_rpc.node import Node
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ConfigurationError,
    ExecutionRevertedError,
    Refusal,
)
from signer.ports import Block, Call, Fees, Receipt


_T = TypeVar("_T")

# When nodes give different reasons, the one that has seen more of the chain is right.
_PRECEDENCE = (
    "nonce-too-low",
    "underpriced",
    "insufficient-funds",
    "nonce-too-high",
    "other",
)


class JSONRPCChain:
    """
    A ``ChainClient`` (``signer/ports.py``) over web3.py.

    Reads ask one node after the other and take the first answer; a contract's revert
    is an answer.  A transaction goes to every node, and one that takes it suffices.

    Nothing is connected before the first call, and a process that was forked off
    connects anew, so that no two processes speak through one socket.

    Args:
        urls: http or https URLs of nodes of one network, the preferred one first.
            They are secrets, since providers put the API key there.
        timeout: Seconds for each exchange with each node.

    Raises:
        ConfigurationError: ``networks-misconfigured``: not an http or https URL.
    """

    def __init__(self, urls: Sequence[SecretStr | str], timeout: float) -> None:
        self._urls = tuple(_checked(url, place) for place, url in enumerate(urls, 1))
        if not self._urls:
            raise ConfigurationError(
                Refusal("networks-misconfigured", "a network needs an RPC URL")
            )
        self._timeout = timeout
        self._connected: tuple[int, tuple[Web3, ...]] = (0, ())

    def chain_id(self) -> int:
        """
        Return the id that the nodes believe in.

        Raises:
            ChainError: Two nodes are of different chains.
            ChainUnavailableError: No node answered.
        """
        ids, problems = set[int](), list[ChainError]()
        for node in self._nodes():
            try:
                ids.add(questions.ask(questions.chain_id, node))
            except ChainError as e:
                problems.append(e)
        if len(ids) > 1:
            raise ChainError(f"the nodes are of different chains: {sorted(ids)}")
        if not ids:
            raise _most_hopeful(problems)
        return ids.pop()

    def has_code(self, address: str) -> bool:
        """Say whether a contract lives at *address*."""
        return self._ask(lambda node: questions.has_code(node, address))

    def balance(self, address: str) -> int:
        """Return the balance of *address* in wei."""
        return self._ask(lambda node: questions.balance(node, address))

    def call(self, call: Call) -> bytes:
        """
        Run *call* on the latest block and return its answer.

        Raises:
            ExecutionRevertedError: With the contract's decoded reason.
        """
        return self._ask(lambda node: questions.call(node, call))

    def estimate_gas(self, call: Call) -> int:
        """
        Return the gas that *call* would use.

        Raises:
            ExecutionRevertedError: With the contract's decoded reason.
        """
        return self._ask(lambda node: questions.estimate_gas(node, call))

    def transaction_count(self, address: str) -> int:
        """Return the next nonce of *address* at the latest block."""
        return self._ask(lambda node: questions.transaction_count(node, address))

    def fees(self) -> Fees:
        """
        Return the latest block's base fee, and the tip that the node suggests.

        Raises:
            ChainError: The chain has no base fee (EIP-1559).
        """
        return self._ask(questions.fees)

    def broadcast(self, raw: bytes) -> None:
        """
        Hand signed bytes to every node; "already known" is success.

        A node that answers with another hash than Keccak-256 of *raw* is lying or
        mixed up: it counts as one that did not answer.

        Raises:
            BroadcastRejectedError: No node took the bytes, and one said why.  This is
                never the end of a refund, and least of all with ``nonce-too-low``:
                these very bytes may be mined already.  Ask for the receipts of all
                hashes of that nonce, and never sign another nonce for it.
            ChainUnavailableError: No node answered; any of them may have the bytes.
        """
        taken, problems = False, list[ChainError]()
        for node in self._nodes():
            try:
                questions.ask(partial(questions.hand_over, raw=raw), node)
                taken = True
            except ChainError as e:
                problems.append(e)
        if taken:
            return
        refusals = [e for e in problems if isinstance(e, BroadcastRejectedError)]
        if refusals:
            raise min(refusals, key=lambda e: _PRECEDENCE.index(e.reason))
        raise _most_hopeful(problems)

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Return the receipt of *tx_hash*.  None proves nothing."""
        return self._ask(lambda node: questions.receipt(node, tx_hash))

    def latest_block(self) -> Block:
        """Return the head of the chain."""
        return self._ask(questions.latest_block)

    def block(self, number: int) -> Block | None:
        """Return the canonical block at *number*, if the node has it."""
        return self._ask(lambda node: questions.block(node, number))

    def _ask(self, question: Callable[[Web3], _T]) -> _T:
        problems = list[ChainError]()
        for node in self._nodes():
            try:
                return questions.ask(question, node)
            except ExecutionRevertedError:
                raise
            except ChainError as e:
                problems.append(e)
        raise _most_hopeful(problems)

    def _nodes(self) -> tuple[Web3, ...]:
        process, nodes = self._connected
        if process != os.getpid():
            # No lock, which a fork could leave locked for ever: when two threads
            # come here at once, one of the two sets of nodes is soon forgotten.
            nodes = tuple(_web3(url, self._timeout) for url in self._urls)
            self._connected = (os.getpid(), nodes)
        return nodes


def _most_hopeful(problems: Sequence[ChainError]) -> ChainError:
    # While one node may answer later, trying again makes sense.
    return min(problems, key=lambda e: not e.retryable)


def _checked(url: SecretStr | str, place: int) -> SecretStr:
    secret = url if isinstance(url, SecretStr) else SecretStr(url)
    try:
        parts = urlsplit(secret.get_secret_value())
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(
            Refusal("networks-misconfigured", f"RPC URL {place} is not http or https")
        )
    return secret


def _web3(url: SecretStr, timeout: float) -> Web3:
    # Chains with proof of authority write more into a block's extra data than web3
    # would have; its other middleware is of no use here and costs time.
    return Web3(Node(url, timeout), middleware=[(ExtraDataToPOAMiddleware, "poa")])
