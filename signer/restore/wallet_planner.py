"""Finds which nonces of one wallet a restored ledger has lost."""

from collections.abc import Collection, Container, Sequence

from signer.chain.chain import Chain
from signer.model.refund import FILLER
from signer.model.wallet import Wallet
from signer.ports.ledger import Ledger
from signer.refunds.fillers import filler_name
from signer.refunds.wallet_reconciliation import HISTORY
from signer.restore.lost_changes import LostChanges
from signer.restore.plan import WalletPlan


MOST_FILLERS = 1000
"""How many nonces of one wallet are filled at most: each costs the gas of a no-op."""


class WalletPlanner:
    """
    Plans the wallet of *address* on *network*; ``problems`` are why it cannot be done.

    ``held`` are the nonces that are held for refunds of the plan, and ``revoked`` the
    addresses whose keys sign nothing any more.
    """

    def __init__(
        self, store: Ledger, network: str, chain: Chain, address: str, lost: LostChanges
    ) -> None:
        self._store = store
        self._network = network
        self._chain = chain
        self._address = address
        self.wallet_id = chain.network.chain_id, address
        self._lost = lost
        self.held: Collection[int] = ()
        self.revoked: Container[str] = ()
        self.problems: list[str] = []

    @property
    def is_revoked(self) -> bool:
        """Whether the key signs nothing any more."""
        return self._address in self.revoked

    def plan(self, stated: int | None, *, has_log: bool) -> WalletPlan | None:
        """Return the plan; None if the wallet needs none."""
        client = self._chain.client
        counted = client.pending_count(self._address)
        stored = self._store.wallet(*self.wallet_id)
        is_logged = self._lost.high_water(self.wallet_id) > 0
        if stored is None and not (counted or is_logged or stated):
            return None
        first = max(0, counted - HISTORY)
        wallet = stored or Wallet(*self.wallet_id, first, first)
        if not wallet.is_authentic:
            # Nothing of a changed row counts; it is replaced.
            wallet = Wallet(*self.wallet_id, first, first, is_authentic=False)
        known = self._find_known(wallet, counted, has_log=has_log)
        self._check_stated(stated, known, has_log=has_log)
        mark = max(known, stated or 0)
        mined = client.transaction_count(self._address)
        unknown = self._find_unknown(stored, wallet, mined, mark)
        unmined = [nonce for nonce in unknown if nonce >= mined]
        gaps = len(unknown) - len(unmined)
        if self.is_revoked and not has_log:
            gaps = len(unknown)
        plan = WalletPlan(
            self._network,
            wallet,
            counted=counted,
            mined=mined,
            high_water=mark,
            fillers=self._find_fillers(wallet, unmined, mark),
            has_gaps=gaps > 0,
            is_revoked=self.is_revoked,
            is_stated=stated is not None,
        )
        if plan.is_done:
            return None
        if (final := self._final_count()) < mined:
            self._object(
                f"{mined - final} of its transactions are not final yet: run the"
                " command again when they are"
            )
        return plan

    def _find_known(self, wallet: Wallet, counted: int, *, has_log: bool) -> int:
        """Return the highest mark that ledger, chain or log shows."""
        logged = self._lost.high_water(self.wallet_id)
        earlier = wallet.high_water or 0
        if self.is_revoked and has_log:
            # Nothing fills its gaps any more, so a mark must not be too high.
            logged, earlier = (
                self._lost.kept_high_water(self.wallet_id, self.revoked),
                0,
            )
        return max(wallet.next_nonce, counted, logged, earlier)

    def _check_stated(self, stated: int | None, known: int, *, has_log: bool) -> None:
        if stated is None and not has_log:
            self._object(
                f"state how many transactions it has signed, {known} or more:"
                f" --high-water {self._network}:{self._address}=NONCE"
            )
        if stated is not None and stated < known:
            self._object(f"its high-water mark must be {known} or more")

    def _find_unknown(
        self, stored: Wallet | None, wallet: Wallet, mined: int, mark: int
    ) -> Sequence[int]:
        """Return nonces without a row: all mined ones, and one too many others."""
        first = wallet.first_nonce
        limit = max(mined - first, 0) + len(self.held) + MOST_FILLERS + 1
        unknown: Sequence[int] = range(first, mark)[:limit]
        if stored is not None:
            unknown = self._store.unknown_nonces(*self.wallet_id, mark, limit)
        return [nonce for nonce in unknown if nonce not in self.held]

    def _find_fillers(
        self, wallet: Wallet, unmined: Sequence[int], mark: int
    ) -> Sequence[int]:
        if self.is_revoked:
            return ()  # Its key signs nothing any more.
        if len(unmined) > MOST_FILLERS:
            self._object(
                f"its high-water mark {mark} needs more than {MOST_FILLERS} no-ops,"
                " which are not signed: check the mark"
            )
            return ()
        # A filler gets its nonce from a worker: an earlier restore may have made it.
        return [
            nonce
            for nonce in unmined
            if self._store.find(FILLER, filler_name(wallet, nonce)) is None
        ]

    def _final_count(self) -> int:
        """Return how many transactions have the confirmations that they need."""
        client = self._chain.client
        block = client.latest_block().number - self._chain.network.confirmations + 1
        return client.transaction_count(self._address, max(block, 0))

    def _object(self, problem: str) -> None:
        self.problems.append(f"{self._network} {self._address}: {problem}")
