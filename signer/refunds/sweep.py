"""
Moves everything from a former key's address to the active one: tokens first, coin last.

Where a vault holds the tokens, only the coin moves: the new key pays from the vault.

Each asset becomes a payment that is bound to the address: it has one row and one nonce,
and is audited, tracked, replaced and confirmed like any refund.  At most one sweep is
open per network and asset.  Its reference has a running number, so that administrators
who sweep at the same time move each asset once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace

from signer.addresses import parse_address, redact_address
from signer.amounts import COIN_DECIMALS, format_units
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.chain.fees import quote_fees
from signer.config.networks import NOOP_GAS
from signer.errors import ConflictError, require
from signer.keys.admin_audit import AdminAudit, Facts
from signer.keys.keyring import KeyRing
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Actor, Operation
from signer.model.key import FORMER, find_key
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import (
    COIN,
    COIN_ADDRESS,
    OPERATOR,
    Refund,
    RefundRequest,
    new_refund_id,
)
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.refund_reports import RefundFilter, read_pages
from signer.refunds.transaction_signer import describe_acceptance


_FEE_MARGIN = 3
"""How many times the current fee a coin sweep leaves, so that its fee can be raised."""

_FEES_WORTH_MOVING = 10
"""
How many times the current fee a coin sweep moves at least.

It is more than ``_FEE_MARGIN``: otherwise what a sweep leaves could be moved again
after each fall of the fees, and the address would never count as empty.
"""

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class SweepItem:
    """
    One asset to move.

    ``amount`` is in base units of ``decimals``.  ``waits_for`` describes what must
    happen first; None means that the asset can be moved now.  ``refund`` is the sweep
    that moves it, if it was accepted.
    """

    network: str
    symbol: str
    token_address: str
    decimals: int
    amount: int
    waits_for: str | None = None
    refund: Refund | None = None

    @property
    def display_amount(self) -> str:
        """The amount in whole units, as a decimal string."""
        return format_units(self.amount, self.decimals)


def _build_item(row: Refund) -> SweepItem:
    return SweepItem(
        row.network, row.token, row.token_address, row.decimals, row.amount, refund=row
    )


@dataclass(eq=False, repr=False)
class Sweeper:
    """Plans sweeps and stores them in the ledger, from which workers process them."""

    store: Ledger
    ring: KeyRing
    chains: Mapping[str, Chain]
    _: KW_ONLY
    audit: AuditLog
    clock: Clock

    def __post_init__(self) -> None:
        self._admin_audit = AdminAudit(self.audit, Operation.KEY_SWEEP)

    def plan(self, address: str) -> Sequence[SweepItem]:
        """
        Return what *address* holds, in the order in which it is moved.

        An asset that a sweep already moves has that sweep's refund.

        Raises:
            InvalidInputError: *address* is malformed.
            ConflictError: *address* is not that of a former key, or refunds with its
                nonces are still open.
            SigningError: As ``KeyRing.former``.
            ChainError: A network's nodes do not answer.
        """
        items, _ = self._read(parse_address(address, field="address"))
        return items

    def sweep(self, address: str, actor: Actor) -> Sequence[SweepItem]:
        """
        Accept a sweep of each asset that can be moved now, and return the plan.

        The plan has the refunds of the accepted sweeps.  Repeating the call is safe.
        It raises as ``plan``; sweeps accepted before the error stay accepted.
        """
        asked: Facts = {"address": redact_address(address)}
        with self._admin_audit.attempt(AuditAction.KEY_SWEEP, actor, **asked):
            address = parse_address(address, field="address")
            recipient = self.ring.active().key.address
            items, past_sweeps = self._read(address)
            return [
                item
                if item.waits_for
                else self._accept(item, address, recipient, past_sweeps, actor)
                for item in items
            ]

    def _read(self, address: str) -> tuple[Sequence[SweepItem], Sequence[Refund]]:
        """Return the assets to move, in this order, and all earlier sweeps."""
        key = find_key(self.store.keys(), address)
        if key is None or key.state not in FORMER:
            raise ConflictError(
                "only a draining or retired key's address is swept: see `hotwallet keys"
                " list`"
            )
        self.ring.former(address)
        past_sweeps = self._past_sweeps(address)
        open_sweeps = {row.id for row in past_sweeps if not row.status.is_final}
        for refund_id in self.store.stranded(address, len(open_sweeps) + 1):
            if refund_id not in open_sweeps:
                raise ConflictError(
                    f"refund {refund_id} of the address is open: sweep when it is final"
                )
        items = [
            item
            for name, chain in self.chains.items()
            for item in self._items(name, chain, address, past_sweeps)
        ]
        return items, past_sweeps

    def _past_sweeps(self, address: str) -> Sequence[Refund]:
        pages = read_pages(self.store, RefundFilter(tenant=OPERATOR), _PAGE)
        return [
            each
            for page in pages
            for each in page.refunds
            if each.purpose is PaymentPurpose.SWEEP and each.bound_sender == address
        ]

    def _items(
        self, name: str, chain: Chain, address: str, past_sweeps: Iterable[Refund]
    ) -> Iterator[SweepItem]:
        moving = {
            row.token: _build_item(row)
            for row in past_sweeps
            if row.chain_id == chain.network.chain_id and not row.status.is_final
        }
        # A token that is the coin moves last, since it pays for gas.
        shared = chain.network.token_of_coin
        last = COIN if chain.network.fee_token is None else str(chain.network.coin_is)
        waits_for = f"the sweep of the {last}" if last in moving else None
        tokens = []
        for symbol, token in chain.network.tokens.items():
            if symbol in moving and symbol != last:
                tokens.append(moving[symbol])
            elif chain.network.vault is not None or token is shared:
                continue
            elif amount := chain.token_balance(token.address, address):
                tokens.append(
                    SweepItem(
                        name, symbol, token.address, token.decimals, amount, waits_for
                    )
                )
        yield from tokens
        if last in moving:
            yield moving[last]
        else:
            yield from self._coin(name, chain, address, has_tokens=bool(tokens))

    def _coin(
        self, name: str, chain: Chain, address: str, *, has_tokens: bool
    ) -> Iterator[SweepItem]:
        """Yield the coin, but for the fee; or the token that pays the fee, if any."""
        token = chain.network.fee_token
        asset, gas, unit = (COIN, COIN_ADDRESS, COIN_DECIMALS), NOOP_GAS, 1
        if token is not None:
            asset = str(chain.network.coin_is), token.address, token.decimals
            gas, unit = token.max_gas, token.in_coin(1)
        max_fee, _ = quote_fees(chain.client.fees(), chain.network)
        fee = gas * max_fee
        amount = chain.client.balance(address) - fee * _FEE_MARGIN
        if amount >= max(fee * _FEES_WORTH_MOVING, unit):
            waits_for = "its tokens, which need it for gas" if has_tokens else None
            yield SweepItem(name, *asset, amount // unit, waits_for)

    def _accept(
        self,
        item: SweepItem,
        address: str,
        recipient: str,
        past_sweeps: Sequence[Refund],
        actor: Actor,
    ) -> SweepItem:
        row = item.refund
        if row is None:
            new = self._build_row(item, address, recipient, past_sweeps)
            (accepted,) = self.store.accept_all([Acceptance(new)])
            row, _ = require(accepted)
        self._admin_audit.write(
            AuditAction.KEY_SWEEP,
            actor,
            address=address,
            **describe_acceptance(row),
        )
        return replace(item, refund=row)

    def _build_row(
        self,
        item: SweepItem,
        address: str,
        recipient: str,
        past_sweeps: Iterable[Refund],
    ) -> Refund:
        chain_id = self.chains[item.network].network.chain_id
        asset = chain_id, item.symbol
        # Concurrent calls count the same number, and so find the same row.
        number = sum((row.chain_id, row.token) == asset for row in past_sweeps)
        name = f"{address}/{item.symbol}/{chain_id}/{number}"
        now = self.clock()
        request = RefundRequest(
            payment_session_id=PaymentPurpose.SWEEP,
            reference=name,
            network=item.network,
            token=item.symbol,
            # Not in the fingerprint: concurrent calls may read different values, and
            # the first one decides.
            recipient="",
            amount="",
        )
        return Refund(
            id=new_refund_id(now),
            tenant=OPERATOR,
            idempotency_key=name,
            fingerprint=request.fingerprint(),
            reference=name,
            payment_session_id=request.payment_session_id,
            network=item.network,
            chain_id=chain_id,
            token=item.symbol,
            token_address=item.token_address,
            decimals=item.decimals,
            recipient=recipient,
            amount=item.amount,
            reason="sweep",
            state=PaymentState.QUEUED,
            created_at=now,
            updated_at=now,
            due_at=now,
            purpose=PaymentPurpose.SWEEP,
            bound_sender=address,
        )
