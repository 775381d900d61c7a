"""The whole database interface, and its parts for wallets and for processes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from signer.model.approval import ApprovalUse
from signer.model.network_view import Look
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet
from signer.model.worker_row import WorkerRow
from signer.ports.audit_journal import Journal
from signer.ports.control_store import ControlStore
from signer.ports.event_store import EventStore
from signer.ports.key_store import KeyStore
from signer.ports.refund_reports import RefundReports
from signer.ports.refund_store import RefundStore


class SharedState(Protocol):
    """Rows that all processes write; raises as ``RefundStore``."""

    @property
    def has_one_writer(self) -> bool:
        """Whether processes write one after the other, and wait for each other."""

    def workers(self) -> Sequence[WorkerRow]:
        """Return the workers, at most 100: those with the newest passes."""

    def record_pass(self, worker: WorkerRow) -> None:
        """Store the last pass and the metrics of *worker*, which may be new."""

    def remove_worker(self, name: str) -> None:
        """Delete the row of the worker *name*, which ends."""

    def forget_workers(self, before: datetime) -> None:
        """Delete the rows of workers whose last pass was *before* that time."""

    def last_look(self, name: str) -> Look | None:
        """Return the last look of any worker at *name*; None if there was none."""

    def save_look(self, name: str, before: Look | None, after: Look) -> bool:
        """
        Replace *before*, the last look, by *after*; return whether it was the last.

        Of several workers that try, one succeeds.
        """

    def count_alert(self, name: str, at: datetime) -> None:
        """Add one to the count of alert *name*."""

    def alert_counts(self) -> Mapping[str, int]:
        """Return the counts by alert name."""

    def last_alert_at(self, name: str) -> datetime | None:
        """Return when alert *name* was last raised, by any process; None if never."""

    def raise_problem(self, key: str, at: datetime, before: datetime) -> bool:
        """
        Record that the problem *key* lasts, unless one process recorded it already.

        Return whether it was recorded now: it did not last, or it was last recorded at
        *before* or earlier, or in the future.
        """

    def resolve_problem(self, key: str, at: datetime) -> bool:
        """Record that *key* has ended; return whether it lasted."""

    def lasting_problems(self) -> Collection[str]:
        """Return the keys of at most 1,000 problems that last."""

    def add_counts(self, counts: Mapping[tuple[str, ...], int], at: datetime) -> None:
        """
        Add *counts* to those of the other processes, in one transaction.

        A name has several words, without spaces: what is counted, and the labels.
        """

    def shared_counts(self) -> Mapping[tuple[str, ...], int]:
        """Return the counts of all processes, since the database was made."""

    def use_token(self, jti: str, expires_at: datetime, now: datetime) -> bool:
        """
        Return whether this is the first use of a one-time token.

        The use is remembered until *expires_at*.  Tokens that expired well before *now*
        are deleted.  If the call raises, the token may be used up: treat it as used.
        """

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        """
        Add *amount* to the count of *bucket* in *period*; return the sum.

        *period* is a number that grows with time, of the same unit for all buckets.
        Counts that are more than ten periods old are deleted.
        """


class WalletStore(Protocol):
    """
    The wallets that pay refunds, one for each chain and address.

    Methods raise as those of ``RefundStore``.  Rows that another program changed are
    returned as not authentic; methods that change such a wallet raise
    ``RowNotAuthenticError``.
    """

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        """Return the wallet, or None if it was never opened."""

    def wallets(self) -> Sequence[Wallet]:
        """Return every opened wallet, ordered by chain and address."""

    def paused_wallets(self) -> Collection[tuple[int, str]]:
        """Return the chain id and the address of each paused wallet."""

    def open_wallet(self, wallet: Wallet) -> None:
        """
        Insert *wallet*, unless it is already open.

        It replaces a row that another program changed, whose first nonce is kept if it
        is lower.
        """

    def pause(
        self,
        wallet: Wallet,
        reason: Pause,
        at: datetime,
        high_water: int | None = None,
    ) -> None:
        """Stop assigning nonces of *wallet*; the other arguments are stored with it."""

    def resume(
        self,
        wallet: Wallet,
        at: datetime,
        foreign: Sequence[UnrecordedTransaction],
        use: ApprovalUse | None = None,
    ) -> None:
        """
        Assign nonces of *wallet* again, and accept its *foreign* transactions.

        *use* ends an approval in the same transaction.

        Raises:
            StaleStateError: Its foreign transactions are not exactly these, or the
                approval has changed.
            RowNotAuthenticError: Another program changed the wallet or one of its
                unrecorded transactions, perhaps to accept it.
        """

    def unknown_nonces(
        self, chain_id: int, sender: str, below: int, limit: int
    ) -> Sequence[int]:
        """
        Return up to *limit* nonces of an opened wallet that no row has, lowest first.

        They lie between the wallet's first nonce and *below*, which is excluded.  A row
        is a refund or an ``UnrecordedTransaction``.
        """

    def add_unrecorded(
        self, wallet: Wallet, seen: Sequence[UnrecordedTransaction]
    ) -> None:
        """
        Record final transactions that the chain has and the ledger did not.

        A nonce that is already recorded keeps its first records.
        """

    def foreign_transactions(
        self, chain_id: int, sender: str
    ) -> Sequence[UnrecordedTransaction]:
        """Return the wallet's unaccepted foreign transactions, lowest nonce first."""

    def find_unrecorded(
        self, chain_id: int, memos: Collection[bytes]
    ) -> Mapping[bytes, UnrecordedTransaction]:
        """
        Return the transactions that ended refunds with *memos*, by ``Refund.memo``.

        Any wallet may have sent them.  One that paid counts, and of several the one
        with the lowest nonce.
        """


T = TypeVar("T")


class Ledger(
    RefundStore,
    RefundReports,
    WalletStore,
    KeyStore,
    ControlStore,
    EventStore,
    Journal,
    SharedState,
    Protocol,
):
    """Every store that one database implements."""

    def tables(self, kind: Callable[[Any, Any], T]) -> T:
        """Return *kind* of the same database: an extra's own queries."""

    def close(self) -> None:
        """Close the connections of this process."""
