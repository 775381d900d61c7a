"""The chain client: one network, reached through one or more nodes."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from backends.json_rpc import quorum, requests
from backends.json_rpc.node import (
    LARGEST_BATCH,
    MAX_RESPONSE_BYTES,
    NO_RULES,
    Node,
    NodeRules,
    Observed,
)
from backends.json_rpc.node_pool import NodePool
from backends.json_rpc.quorum import QuorumRule
from backends.json_rpc.requests import find_hash
from backends.json_rpc.tracked_node import TrackedNode, node_name, request_status
from signer.errors import (
    ChainError,
    ChainUnavailableError,
    ConfigurationError,
    Refusal,
    require,
)
from signer.ports.chain import (
    NOWHERE,
    Block,
    Call,
    Fees,
    FinalityTag,
    MinedTransaction,
    NodeStatus,
    Preflight,
    Receipt,
)


T = TypeVar("T")

# A search sends many requests, one after another.
_SEARCH_TIMEOUTS = 4


class JSONRPCChain:
    """
    A ``ChainClient`` (``signer/ports/chain.py``) over JSON-RPC.

    Every value is requested from all nodes at once and needs a quorum
    (``backends/json_rpc/quorum.py``).  A transaction is sent to every node; one
    node that accepts it is enough.  ``docs/reference/networks.md`` has the table of
    failures.  No connection is opened before the first call, and a forked process opens
    its own, so that two processes never share a socket.

    *urls* are secrets, the preferred one first.  A node must report *chain_id* before
    its responses count.  *timeout* is for each exchange, and *observe* gets the node's
    name, the methods with their outcomes, and the seconds.  *rules* are of all nodes.
    """

    max_bytes = MAX_RESPONSE_BYTES
    """The largest response of a node."""

    def __init__(
        self,
        urls: Sequence[SecretStr | str],
        timeout: float,
        chain_id: int | None = None,
        observe: Callable[[str, Observed, float], None] | None = None,
        *,
        rules: NodeRules = NO_RULES,
    ) -> None:
        self._observe = observe
        self._rules = rules
        self._urls = [check_url(url, position) for position, url in enumerate(urls, 1)]
        if not self._urls:
            raise _misconfigured("a network needs at least one RPC URL")
        self._timeout = timeout
        self._chain_id = chain_id
        self._connected: tuple[int, NodePool | None] = (0, None)

    def chain_id(self) -> int:
        return self._get_pool().chain_id()

    def code(self, address: str) -> bytes:
        return self._ask_median(requests.code, address)

    def balance(self, address: str) -> int:
        return self._ask_median(requests.balance, address)

    def call(self, call: Call) -> bytes:
        return self._ask_median(requests.call, call)

    def call_all(self, calls: Sequence[Call]) -> Sequence[bytes]:
        results = self._ask_each(quorum.LOWER_MEDIAN, requests.call_all, calls)
        return [*map(require, results)]

    def estimate_gas(self, call: Call) -> int:
        return self._ask(quorum.UPPER_MEDIAN, requests.estimate_gas, call)

    def estimate_all(self, calls: Sequence[Call]) -> Sequence[int | ChainError]:
        return self._ask_each(quorum.UPPER_MEDIAN, requests.estimates, calls)

    def transaction_count(self, address: str, block: int | None = None) -> int:
        if block is None:
            return self._ask(quorum.COUNT, requests.transaction_count, address)
        at = requests.transaction_count_at
        count = self._ask(quorum.PAST_COUNT, at, address, block)
        return require_agreement(count, "a nonce")

    def pending_count(self, address: str) -> int:
        return self._ask(quorum.PENDING_COUNT, requests.pending_count, address)

    def fees(self) -> Fees:
        return require_agreement(self._ask(quorum.FEES, requests.fees), "a base fee")

    def preflight(self, sender: str, calls: Sequence[Call]) -> Preflight:
        rules: list[QuorumRule[Any]] = [
            quorum.PENDING_COUNT,
            quorum.FEES,
            *[quorum.UPPER_MEDIAN] * len(calls),
        ]
        count, fees, *estimates = self._get_pool().decide_all(
            partial(requests.preflight, sender=sender, calls=calls), rules
        )
        count, fees = require(count), require_agreement(require(fees), "a base fee")
        return Preflight(count, fees, tuple(estimates))

    def broadcast_all(self, raws: Sequence[bytes]) -> Sequence[ChainError | None]:
        """
        Send signed transactions to every node, as the port says.

        A rejection does not end a refund, not even ``nonce-too-low``: these very bytes
        may be mined already.  After ``ChainUnavailableError`` each node may have them.
        """
        errors: list[ChainError | None] = []
        for chunk in _chunks(raws):
            request = partial(requests.broadcast_all, raws=chunk)
            try:
                errors += self._get_pool().send_to_all(request, len(chunk))
            except ChainError as e:
                errors += [e] * len(chunk)
        return errors

    def receipts(
        self, tx_hashes: Sequence[str], blocks: Mapping[str, int] = NOWHERE
    ) -> Mapping[str, Receipt]:
        hashes = list(dict.fromkeys(tx_hash.lower() for tx_hash in tx_hashes))
        found = self._receipts_in_blocks(hashes, blocks)
        # Also those that are not in the block in which they were expected.
        missing = [tx_hash for tx_hash in hashes if tx_hash not in found]
        results = self._ask_each(quorum.RECEIPT, requests.receipts, missing)
        if len(missing) == len(hashes) and all(
            isinstance(result, ChainError) for result in results
        ):
            results = [require(result) for result in results]
        return found | _by_hash(results)

    def _receipts_in_blocks(
        self, hashes: Sequence[str], blocks: Mapping[str, int]
    ) -> dict[str, Receipt]:
        """Return those receipts that are in *blocks*."""
        expected: dict[int, list[str]] = defaultdict(list)
        for tx_hash in hashes:
            if tx_hash in blocks:
                expected[blocks[tx_hash]].append(tx_hash)
        found: dict[str, Receipt] = {}
        for number, members in expected.items():
            ask = partial(requests.receipts_in, number=number, tx_hashes=members)
            rules = [quorum.RECEIPT] * len(members)
            found |= _by_hash(self._get_pool().decide_all(ask, rules))
        return found

    def find_transaction(
        self, sender: str, nonce: int, tx_hash: str | None = None
    ) -> MinedTransaction | None:
        # The nodes' past states are searched; what is found needs a quorum.
        timeout = self._timeout * _SEARCH_TIMEOUTS

        def search() -> Iterator[str | None]:
            yield tx_hash
            yield from self._get_pool().each(
                lambda node: find_hash(node, sender, nonce, timeout)
            )

        for candidate in search():
            found = candidate and self._ask(
                quorum.TRANSACTION, requests.transaction, candidate
            )
            if found and (found.sender, found.nonce) == (sender, nonce):
                return found
        return None

    def latest_block(self) -> Block:
        return self._ask(quorum.HEAD, requests.latest_block)

    def final_block(self, tag: FinalityTag) -> Block:
        return self._ask(quorum.HEAD, requests.final_block, tag)

    def block(self, number: int) -> Block | None:
        return self._ask(quorum.BLOCK, requests.block, number)

    def node_statuses(
        self, sender: str | None, tx_hashes: Sequence[str]
    ) -> Sequence[NodeStatus]:
        return self._get_pool().statuses(
            partial(request_status, sender=sender, tx_hashes=tx_hashes)
        )

    def _ask(
        self, rule: QuorumRule[T], request: Callable[..., T], *arguments: Any
    ) -> T:
        """Return what *rule* derives from the responses of all nodes to *request*."""
        return self._get_pool().decide(lambda node: request(node, *arguments), rule)

    def _ask_each(
        self,
        rule: QuorumRule[Any],
        request: Callable[[Node, Sequence[T]], Sequence[Any]],
        items: Sequence[T],
        size: int = LARGEST_BATCH,
    ) -> list[Any]:
        """Return what *rule* derives for each of *items*, or its error."""
        results = list[Any]()
        for chunk in _chunks(items, size):
            ask = partial(lambda chunk, node: request(node, chunk), chunk)
            results += self._get_pool().decide_all(ask, [rule] * len(chunk))
        return results

    def _ask_median(self, request: Callable[..., T], *arguments: Any) -> T:
        result: T = self._ask(quorum.LOWER_MEDIAN, request, *arguments)
        return result

    def _get_pool(self) -> NodePool:
        process, pool = self._connected
        if pool is None or process != os.getpid():
            # Without a lock, which a fork could leave locked permanently: if two
            # threads race here, one of the two pools is dropped after its first use.
            nodes = [
                TrackedNode(self._open(url, position), position, self._chain_id)
                for position, url in enumerate(self._urls, 1)
            ]
            pool = NodePool(nodes, self._timeout)
            self._connected = (os.getpid(), pool)
        return pool

    def _open(self, url: SecretStr, position: int) -> Node:
        name = node_name(position)
        observe = None if self._observe is None else partial(self._observe, name)
        return Node(url, self._timeout, self.max_bytes, observe, rules=self._rules)


def _by_hash(results: Sequence[Any]) -> dict[str, Receipt]:
    return {each.tx_hash: each for each in results if isinstance(each, Receipt)}


def _chunks(items: Sequence[T], size: int = LARGEST_BATCH) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def require_agreement(result: T | None, what: str) -> T:
    """Return *result*; raise ``ChainUnavailableError`` if a quorum has none."""
    if result is None:
        raise ChainUnavailableError(f"the nodes do not agree on {what}")
    return result


def check_url(url: SecretStr | str, position: int) -> SecretStr:
    """Return *url* as a secret; refuse one that is not http or https."""
    secret = url if isinstance(url, SecretStr) else SecretStr(url)
    try:
        parts = urlsplit(secret.get_secret_value())
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise _misconfigured(f"RPC URL {position} is not http or https")
    return secret


def _misconfigured(problem: str) -> ConfigurationError:
    return ConfigurationError(Refusal("networks-misconfigured", problem))


class JSONRPCProxy(JSONRPCChain):
    """
    A ``NodeProxy`` (``signer/ports/outside_services.py``) over JSON-RPC.

    It has connections and reputations of its own, so that what a client asks cannot
    make the service distrust a node.  One node answers, without a quorum.
    """

    # What a client may ask for at once (``api/extras/signing_api/methods.py``).
    max_bytes = 4 * 1024 * 1024

    def forward(self, method: str, params: Sequence[Any]) -> Any:
        asked = list(params)
        return next(
            iter(self._get_pool().each(lambda node: node.forward(method, asked)))
        )
