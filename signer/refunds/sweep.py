"""
Empties a former key's address into the active one: tokens first, the coin last.

Each piece is a refund in all but its client: one row, one nonce, recorded, audited,
watched, replaced and confirmed like any other.  Its reference names address, token,
nonce and hour, so that two operators who sweep at once move everything once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from signer.audit.log import AuditLog
from signer.audit.record import Actor, Operation
from signer.errors import ConflictError
from signer.keyring import KeyRing
from signer.ports import Call, Clock, KeyStore, Store
from signer.refunds.erc20 import balance_calldata
from signer.refunds.fees import quote
from signer.refunds.policy import NOOP_GAS
from signer.refunds.refund import (
    COIN,
    COIN_ADDRESS,
    SWEEPER,
    Refund,
    RefundRequest,
    Status,
    new_refund_id,
)
from signer.refunds.units import format_units
from signer.refunds.watching import Chain


_COIN_DECIMALS = 18

_FEE_MARGIN = 3
"""How often the fee of the moment may be raised to, before a sweep of coin waits."""


@dataclass(frozen=True, slots=True)
class Piece:
    """
    Something to move, or why it cannot be moved yet.

    ``amount`` is in base units of ``decimals``; ``waits_for`` says in our words what
    must happen first, None where nothing must.
    """

    network: str
    symbol: str
    token_address: str
    decimals: int
    amount: int
    waits_for: str | None = None

    @property
    def whole(self) -> str:
        """The amount in whole units."""
        return format_units(self.amount, self.decimals)


class Sweeper:
    """Plans sweeps, and hands them to the ledger; workers do the rest."""

    def __init__(
        self,
        store: Store,
        keys: KeyStore,
        ring: KeyRing,
        chains: Mapping[str, Chain],
        *,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._store = store
        self._keys = keys
        self._ring = ring
        self._chains = chains
        self._audit = audit
        self._clock = clock

    def plan(self, address: str) -> Sequence[Piece]:
        """
        Return what is left at *address*, in the order in which it is moved.

        Raises:
            KeyUnusableError: It is not a former key's.
            ConflictError: Refunds with its nonces are still open.
            ChainError: A node does not answer.
        """
        self._ring.former(address)
        if self._keys.stranded(address, 1):
            raise ConflictError("the address has open refunds or sweeps: wait for them")
        return [
            piece
            for name, chain in self._chains.items()
            for piece in self._pieces(name, chain, address)
        ]

    def sweep(self, address: str, actor: Actor) -> Iterator[Refund]:
        """
        Accept what can be moved now, and yield it; again is fine.

        Raises:
            HotWalletError: As ``plan``; what was yielded before stays accepted.
        """
        recipient = self._ring.active().key.address
        for piece in self.plan(address):
            if piece.waits_for is None:
                row = self._row(piece, address, recipient)
                self._write_down(row, actor)
                accepted, _ = self._store.accept(row)
                yield accepted

    def _write_down(self, row: Refund, actor: Actor) -> None:
        self._audit.write(
            self._audit.event(
                "sweep",
                Operation.KEY_SWEEP,
                actor,
                network=row.network,
                address=str(row.swept_from),
                recipient=row.recipient,
                token_symbol=row.token,
                amount=format_units(row.amount, row.decimals),
                refund_id=row.id,
            )
        )

    def _pieces(self, name: str, chain: Chain, address: str) -> Iterator[Piece]:
        is_left = False
        for symbol, token in chain.network.tokens.items():
            call = Call(None, token.address, balance_calldata(address))
            amount = int.from_bytes(chain.client.call(call), "big")
            if amount:
                is_left = True
                yield Piece(name, symbol, token.address, token.decimals, amount)
        coin = chain.client.balance(address)
        max_fee, _ = quote(chain.client.fees(), chain.network)
        amount = coin - NOOP_GAS * max_fee * _FEE_MARGIN
        if amount <= 0:
            return  # Not worth its own fee.
        waits_for = "its tokens, which need it for gas" if is_left else None
        yield Piece(name, COIN, COIN_ADDRESS, _COIN_DECIMALS, amount, waits_for)

    def _row(self, piece: Piece, address: str, recipient: str) -> Refund:
        chain_id = self._chains[piece.network].network.chain_id
        wallet = self._store.wallet(chain_id, address)
        nonce = 0 if wallet is None else wallet.next_nonce
        now = self._clock()
        name = f"{address}/{piece.symbol}/{chain_id}/{nonce}/{now:%Y-%m-%dT%H}"
        request = RefundRequest(
            payment_session_id=address,
            reference=name,
            network=piece.network,
            token=piece.symbol,
            recipient=recipient,
            amount=piece.whole,
            reason="sweep",
        )
        return Refund(
            id=new_refund_id(now),
            client=SWEEPER,
            idempotency_key=name,
            fingerprint=request.fingerprint(),
            reference=name,
            payment_session_id=address,
            network=piece.network,
            chain_id=chain_id,
            token=piece.symbol,
            token_address=piece.token_address,
            decimals=piece.decimals,
            recipient=recipient,
            amount=piece.amount,
            reason="sweep",
            status=Status.QUEUED,
            created_at=now,
            updated_at=now,
            due_at=now,
        )
