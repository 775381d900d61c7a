"""Estimates the gas of what pays a refund, and bounds the gas limit that is signed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from signer.chain.chain import Chain
from signer.chain.fees import add_gas_margin
from signer.config.networks import NOOP_GAS
from signer.errors import (
    ChainError,
    ExecutionRevertedError,
    GasLimitError,
    InsufficientFundsError,
)
from signer.model.payment import PaymentPurpose
from signer.model.refund import Refund
from signer.model.transaction import TransactionKind
from signer.ports.chain import Call, Preflight
from signer.ports.clock import Clock
from signer.refunds.payload import find_vault, transfer_of
from signer.refunds.payment_checks import max_gas


_REMEMBERED = timedelta(minutes=1)
"""How long an estimate is used: on some rollups, gas follows the fees of Ethereum."""

_Kind = tuple[int, str, str] | None
"""Chain id, holder and token of transfers that need nearly the same gas."""


class GasMemory:
    """
    The most that transfers of each token needed a moment ago.

    To run a transfer costs a node a fraction of what an estimate does.  It is run with
    less gas than will be signed, which shows that the signed gas limit suffices.  What
    fails is estimated alone: the token refuses it or has become more expensive, or the
    transfers that were run before it left too little for it.

    Transfers of one kind have one limit.  So none succeeds only because one before it
    paid for something, like the entry of a new holder: that one fails as well.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[_Kind, tuple[datetime, int]] = {}

    def preflight(
        self, refunds: Sequence[Refund], chain: Chain, sender: str
    ) -> Preflight:
        """Return the preflight of *sender* with an estimate for each of *refunds*."""
        self._forget()
        holders = [find_holder(refund, chain, sender) for refund in refunds]
        calls = [*map(build_call, refunds, holders)]
        kinds = [
            (chain.network.chain_id, holder, refund.token_address)
            if refund.kind is TransactionKind.TRANSFER
            else None
            for refund, holder in zip(refunds, holders, strict=True)
        ]
        self._learn(refunds, kinds, calls, chain)
        known: dict[int, int] = {}  # By place.
        for place, (kind, refund) in enumerate(zip(kinds, refunds, strict=True)):
            if kind in self._known:
                _, known[place] = self._known[kind]
                calls[place] = _limit(calls[place], known[place], refund, chain)
        preflight = chain.client.preflight(sender, calls)
        estimates = [*preflight.estimates]
        failed = [each for each in known if isinstance(estimates[each], ChainError)]
        for place in known.keys() - failed:
            estimates[place] = known[place]
        unlimited = [replace(calls[place], gas=None) for place in failed]
        again = chain.client.estimate_all(unlimited)
        for place, estimate in zip(failed, again, strict=True):
            estimates[place] = estimate
        for kind, refund, estimate in zip(kinds, refunds, estimates, strict=True):
            self._remember(kind, refund, estimate, chain)
        return replace(preflight, estimates=tuple(estimates))

    def _learn(
        self,
        refunds: Sequence[Refund],
        kinds: Sequence[_Kind],
        calls: Sequence[Call],
        chain: Chain,
    ) -> None:
        """Estimate one of several transfers of an unknown kind, for all of them."""
        unknown: dict[_Kind, list[int]] = defaultdict(list)
        for place, kind in enumerate(kinds):
            if kind is not None and kind not in self._known:
                unknown[kind].append(place)
        places = [first for first, *others in unknown.values() if others]
        found = chain.client.estimate_all([calls[place] for place in places])
        for place, estimate in zip(places, found, strict=True):
            self._remember(kinds[place], refunds[place], estimate, chain)

    def _remember(
        self, kind: _Kind, refund: Refund, estimate: int | ChainError, chain: Chain
    ) -> None:
        """Remember *estimate*, if it is possible and no other is higher."""
        if kind is None or isinstance(estimate, ChainError):
            return
        _, known = self._known.get(kind, (None, 0))
        if known < estimate <= max_gas(refund, chain.network):
            self._known[kind] = self._clock(), estimate

    def _forget(self) -> None:
        now = self._clock()
        self._known = {
            kind: (at, estimate)
            for kind, (at, estimate) in self._known.items()
            if abs(now - at) < _REMEMBERED
        }


def _limit(call: Call, estimate: int, refund: Refund, chain: Chain) -> Call:
    """Return *call* with half of the margin that the gas limit of *estimate* has."""
    signed = bound_gas(estimate, refund, chain)
    return replace(call, gas=(estimate + signed) // 2)


def find_holder(refund: Refund, chain: Chain, sender: str) -> str:
    """Return who holds what pays a queued *refund*: *sender*, or the vault."""
    return find_vault(refund, chain.network) or sender


def build_call(refund: Refund, holder: str) -> Call:
    """Return the call that pays *refund* alone, as *holder* would make it."""
    payload = transfer_of(refund)
    return Call(holder, payload.to, payload.data, payload.value)


def estimate_gas(refund: Refund, chain: Chain, sender: str) -> int:
    """
    Return the gas that the transfer or call of *sender* itself would use.

    A sweep of coin has a constant.

    Raises:
        ExecutionRevertedError: The contract refuses it.
        InsufficientFundsError: *sender* holds less of the asset than the refund.
    """
    if refund.kind is TransactionKind.COIN:
        return NOOP_GAS
    if refund.kind is TransactionKind.CALL:
        require_funds(refund, chain, sender)  # Nodes do not estimate without the coin.
    try:
        return chain.client.estimate_gas(build_call(refund, sender))
    except ExecutionRevertedError as e:
        require_funds(refund, chain, sender)
        raise e from None


def require_funds(refund: Refund, chain: Chain, holder: str) -> None:
    """
    Require that *holder* has enough of what *refund* pays.

    A node's answer to a transfer of more is a revert, or no estimate.

    An empty wallet can be topped up; any other refusal of the token is final.

    Raises:
        InsufficientFundsError: It holds less than the refund.
    """
    if refund.purpose is PaymentPurpose.SWEEP:
        return  # A sweep does not wait for more of the token.
    if refund.kind is TransactionKind.CALL:
        balance = chain.client.balance(holder) if refund.amount else 0
    else:
        balance = chain.token_balance(refund.token_address, holder)
    if balance < refund.amount:
        raise InsufficientFundsError(
            f"{holder} holds less {refund.token} than the refund: top it up"
        )


def bound_gas(estimate: int, refund: Refund, chain: Chain) -> int:
    """
    Return the gas limit for *estimate*, within ``max_gas``.

    Raises:
        GasLimitError: The estimate is above that.
    """
    if refund.kind is TransactionKind.COIN:
        return estimate
    largest = max_gas(refund, chain.network)
    if estimate > largest:
        is_call = refund.kind is TransactionKind.CALL
        what = "the call" if is_call else f"a transfer of {refund.token}"
        raise GasLimitError(
            f"{what} would need {estimate} gas, and its max_gas is {largest}: check the"
            " nodes, or raise it in the networks file"
        )
    return min(add_gas_margin(estimate), largest)
