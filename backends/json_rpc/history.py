"""The chain's past: blocks, transfers, costs and old balances, by a quorum of nodes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import SecretStr

from backends.json_rpc import history_requests as requests
from backends.json_rpc.client import JSONRPCChain
from backends.json_rpc.history_requests import TransferQuery
from backends.json_rpc.node import LARGEST_BATCH, Node
from backends.json_rpc.outcomes import attempt
from backends.json_rpc.quorum_rules import QuorumRule, agreed
from signer.errors import ChainError, ChainUnavailableError
from signer.outcomes import require
from signer.ports.chain_history import Header, Settled, TokenTransfer


T = TypeVar("T")

_CHUNK = LARGEST_BATCH // 2
"""The most items of one exchange: a transaction takes two requests."""


def _differs(response: object, result: object) -> bool:
    return response is not None and result is not None and response != result


_SAME: QuorumRule[Any] = QuorumRule(agreed, _differs)
"""A quorum must agree; None is a node that does not have it, and agrees with none."""


class JSONRPCHistory(JSONRPCChain):
    """
    A ``ChainHistory`` (``signer/ports/chain_history.py``) over JSON-RPC.

    Providers limit the blocks and the results of one ``eth_getLogs``, each differently.
    So a range that fails is halved, and later ranges are not longer than the last one
    that worked.
    """

    def __init__(
        self,
        urls: Sequence[SecretStr | str],
        timeout: float,
        chain_id: int | None = None,
    ) -> None:
        """Create a client, as ``JSONRPCChain``."""
        super().__init__(urls, timeout, chain_id)
        self._span: int | None = None

    def headers(self, numbers: Sequence[int]) -> Sequence[Header]:
        found = self._each(requests.headers, numbers)
        if None in found:
            raise ChainUnavailableError("the nodes do not have, or agree on, a block")
        return [each for each in found if each is not None]

    def transfers(
        self,
        tokens: Collection[str],
        wallets: Collection[str],
        first: int,
        last: int,
    ) -> Sequence[TokenTransfer]:
        found = list[TokenTransfer]()
        while tokens and wallets and first <= last:
            end = last if self._span is None else min(last, first + self._span - 1)
            query = TransferQuery(tuple(tokens), tuple(wallets), first, end)
            part = attempt(partial(self._decide, partial(requests.transfers, query)))
            if not isinstance(part, ChainError):
                found += _require_agreement(part, "the transfers of some blocks")
                first = end + 1
            elif end == first:
                raise part
            else:
                self._span = (end - first + 1) // 2
        return found

    def settled(self, tx_hashes: Sequence[str]) -> Mapping[str, Settled]:
        found: Sequence[Settled | None]
        found = self._each(requests.settled, list(dict.fromkeys(tx_hashes)))
        return {each.tx_hash: each for each in found if each is not None}

    def coin_balance(self, address: str, block: int) -> int:
        found = self._decide(lambda node: requests.coin_balance(node, address, block))
        return _require_agreement(found, "a balance")

    def token_balance(self, token: str, address: str, block: int) -> int:
        found = self._decide(
            lambda node: requests.token_balance(node, token, address, block)
        )
        return _require_agreement(found, "a balance")

    def _decide(self, request: Callable[[Node], T]) -> T | None:
        """Return what a quorum agrees on; None if there is none."""
        result: T | None = self._get_pool().decide(request, _SAME)
        return result

    def _each(self, request: Any, items: Sequence[Any]) -> list[Any]:
        """Return the result for each item; raise the first error."""
        results = list[Any]()
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            send = partial(request, items=chunk)
            results += self._get_pool().decide_all(send, [_SAME] * len(chunk))
        return [require(each) for each in results]


def _require_agreement(result: T | None, what: str) -> T:
    if result is None:
        raise ChainUnavailableError(f"the nodes do not agree on {what}")
    return result
