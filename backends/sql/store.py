"""The ledger of refunds: what ``signer.ports.Store`` promises, in SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select

from backends.sql import queries
from backends.sql.audit import AuditTables
from backends.sql.callers import CallerTables
from backends.sql.database import Database
from backends.sql.health import require_health
from backends.sql.keys import KeyTables
from backends.sql.schema import answers
from backends.sql.statements import CLAIM, Step, values
from backends.sql.urls import SQLITE
from backends.sql.validation import (
    is_address,
    is_storable,
    require_new,
    require_page,
    require_step,
)
from backends.sql.wallets import WalletTables
from backends.sql.write_path import apply, reserve
from signer.errors import KeyRotatedError, StaleStateError
from signer.model.audit_record import Record
from signer.model.refund import (
    InFlight,
    Move,
    Page,
    Refund,
    SignedTransaction,
    Status,
)
from signer.model.spending_limits import NO_LIMITS, Limits


# Longer than anybody holds a refund, or delays it.
_LONGEST = timedelta(minutes=2)


class SQLStore(WalletTables, KeyTables, AuditTables, CallerTables):
    """
    A ``Store`` on SQLite or PostgreSQL.

    Opens its connections at first use, in whichever process that is, so that it may
    be made before a fork.  Threads share it.
    """

    def __init__(self, url: str, *, pool_size: int = 4, timeout: float = 5.0) -> None:
        """
        Remember *url*, and open nothing.

        *pool_size* is the number of threads that use the store at once, *timeout*
        the seconds that a connection, a lock and a statement may each take.

        Raises:
            ConfigurationError: ``database-misconfigured``; the URL is not shown.
        """
        super().__init__(Database(url, pool_size=pool_size, timeout=timeout))

    def __repr__(self) -> str:
        """Say no more than the kind of database."""
        return f"SQLStore({self._database.dialect!r})"

    def find(self, client: str, idempotency_key: str) -> Refund | None:
        """Return the refund that this client's key made, if it made one."""
        if not (is_storable(client) and is_storable(idempotency_key)):
            return None
        given = {"of_client": client, "key": idempotency_key}
        row = self._database.run(
            lambda c: c.execute(queries.BY_KEY, given).one_or_none()
        )
        return None if row is None else Refund(*row)

    def accept(self, refund: Refund) -> tuple[Refund, bool]:
        """
        Insert a queued refund, or find the one that this client's key made.

        Returns:
            The stored refund, and whether this call created it.

        Raises:
            InvalidInputError: A text is too long, or no database can hold it.
            IdempotencyMismatchError: The key was used with another fingerprint.
            ConflictError: Another key already asked for the same reference.
            ValueError: The refund is not queued; a programming error.
        """
        require_new(refund)
        if apply(self._database, Step.ACCEPT, values(None, refund)) is not None:
            return refund, True
        return self._database.run(lambda c: queries.found(c, refund)), False

    def get(self, refund_id: str) -> Refund | None:
        """Return one refund."""
        rows = self._rows(queries.BY_ID, refund_id)
        return Refund(*rows[0]) if rows else None

    def list(
        self,
        client: str,
        *,
        payment_session_id: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """
        Return a client's refunds, newest first, from behind *cursor*.

        Raises:
            InvalidInputError: *limit* or *cursor* is none that we gave or take.
        """
        require_page(limit, cursor)
        if not (is_storable(client) and is_storable(payment_session_id or "")):
            return Page((), None)
        filters = {
            "payment_session_id": payment_session_id,
            "status": status,
            "cursor": cursor,
        }
        used = {name: value for name, value in filters.items() if value is not None}
        # The one too many says that there is more.
        given = {**used, "of_client": client, "at_most": limit + 1}
        wanted = queries.newest(*used)
        rows = self._database.run(lambda c: c.execute(wanted, given).all())
        page = tuple(Refund(*row) for row in rows[:limit])
        return Page(page, page[-1].id if len(rows) > limit else None)

    def claim(self, now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        """
        Take up refunds that are due, those first that wait longest.

        Until *until* nobody else does.  What is due much later than any claim or
        delay lasts was dated by a clock that was wrong, and counts as due.
        """
        window = {"now": now, "far": now + _LONGEST}
        given = {**window, "until": until, "at_most": limit}
        if self._database.dialect == SQLITE and not self._is_due(window):
            return ()  # Nobody else's write has to wait for nothing.
        rows = self._database.write(lambda c: c.execute(CLAIM, given).all())
        return tuple(sorted((Refund(*row) for row in rows), key=lambda r: r.id))

    def in_flight(self, limit: int, after: str | None = None) -> Sequence[InFlight]:
        """
        Return refunds that were sent and are not final, oldest first.

        *after* is the id of the last one of the previous batch.  The cost grows with
        the open refunds, not with the ledger.
        """
        given = {"after": after or "", "at_most": limit}

        def found(connection: Connection) -> Sequence[InFlight]:
            flying = [Refund(*r) for r in connection.execute(queries.FLYING, given)]
            hashes: dict[str, list[str]] = {refund.id: [] for refund in flying}
            wanted = {"refund_ids": list(hashes)}
            for refund_id, tx_hash in (
                connection.execute(queries.HASHES, wanted) if flying else ()
            ):
                hashes[refund_id].append(tx_hash)
            return tuple(_in_flight(refund, hashes[refund.id]) for refund in flying)

        return self._database.run(found)

    def open_below(
        self, chain_id: int, sender: str, nonce: int, limit: int
    ) -> Sequence[Refund]:
        """Return open refunds of a wallet with nonces below *nonce*, lowest first."""
        given = {
            "chain_id": chain_id,
            "sender": sender,
            "nonce": nonce,
            "at_most": limit,
        }
        rows = self._database.run(lambda c: c.execute(queries.BELOW, given).all())
        return tuple(Refund(*row) for row in rows)

    def reserve(
        self,
        refund: Refund,
        *,
        sender: str,
        key_id: str,
        gas_limit: int,
        counted: int,
        at: datetime,
        limits: Limits = NO_LIMITS,
        intent: Record | None = None,
    ) -> Refund:
        """
        Give a queued refund its nonce for life, in one transaction.

        The nonce is one past the highest that any row holds for this chain and
        sender.  Nothing else remembers it, so that a transaction that fails leaves no
        gap.

        Raises:
            KeyRotatedError: *sender* is not the active key's, or that is not in
                *key_id* any more.  For a sweep: its recipient is not the active key's.
            StaleStateError: The refund is not as *refund* says any more, or a sighting
                has paid it; its wallet is paused or not opened; or *counted*, which is
                what the chain counts, is ahead of the ledger.
            ValueError: It is not queued, or *sender* is no EIP-55 address, and one
                wallet would have two names; a programming error.
        """
        if not is_address(sender):
            raise ValueError("the sender is not an address with its EIP-55 checksum")
        reservation: dict[str, Any] = {
            "sender": sender,
            "key_id": key_id,
            "gas_limit": gas_limit,
        }
        after = refund.with_status(Status.RESERVED, at, **reservation)
        sweeps = refund.swept_from is not None
        seen = {"counted": counted, "mark": refund.mark, "sweeps": sweeps}
        given = {**values(refund, after, record=intent), **seen}
        changed = reserve(self._database, refund, limits, given)
        if changed is None:
            self._require_active(refund, sender, key_id)
            raise StaleStateError(f"refund {refund.id} cannot be reserved as it was")
        return replace(after, nonce=changed.nonce, intent_recorded=intent is not None)

    def adopt(self, before: Refund, after: Refund) -> None:
        """
        Replace a queued refund by the mined one that a sighting made of it.

        Raises:
            StaleStateError: The stored version is not that of *before*, or the nonce
                is another refund's.
        """
        given = values(before, after)
        if apply(self._database, Step.ADOPT, given) is None:
            raise StaleStateError(f"refund {before.id} has moved on")

    def save(
        self,
        before: Refund,
        after: Refund,
        transaction: SignedTransaction | None = None,
        outcome: Record | None = None,
    ) -> None:
        """
        Replace *before* by *after*, and record *transaction*, or do nothing.

        *outcome* is what the audit says of the transaction's signature.

        Raises:
            StaleStateError: The stored version is not that of *before*, or this
                attempt of the refund was recorded already.
            ValueError: *after* is not the next version of *before*, changes what
                stays for life, or *transaction* is another's; a programming error.
        """
        require_step(before, after, transaction)
        step = Step.SAVE if transaction is None else Step.RECORD
        if transaction is None and after.status is before.status:
            step = Step.POSTPONE
        given = values(before, after, transaction, outcome)
        if apply(self._database, step, given) is None:
            raise StaleStateError(f"refund {before.id} has moved on")

    def transactions(self, refund_id: str) -> Sequence[SignedTransaction]:
        """Return everything that was ever signed for a refund, first one first."""
        rows = self._rows(queries.TRANSACTIONS, refund_id)
        return tuple(SignedTransaction(*row) for row in rows)

    def history(self, refund_id: str) -> Sequence[Move]:
        """Return the moves of a refund, first one first."""
        return tuple(Move(*row) for row in self._rows(queries.HISTORY, refund_id))

    def answer(self, refund_id: str) -> str | None:
        """Return what the request that made this refund was answered, if it was."""
        rows = self._rows(queries.ANSWER, refund_id)
        return rows[0].body if rows else None

    def remember_answer(self, refund_id: str, body: str, at: datetime) -> str:
        """Keep *body* as that answer, and return it; or the one that was first."""
        given = {"refund_id": refund_id, "body": body, "at": at}
        kept = self._insert(answers, given)
        return body if kept else self.answer(refund_id) or body

    def check(self) -> None:
        """
        Do nothing, through the database.

        Raises:
            StoreUnavailableError: It does not answer, or only reads at the moment.
            StoreError: Its schema is not the one that this program needs, or it
                acknowledges what it has not written.
        """
        require_health(self._database)

    def migrate(self) -> None:
        """
        Bring an empty or older database to this program's schema.

        Any number of processes may do so at once.

        Raises:
            StoreError: It is newer than the program, or cannot be changed.
        """
        # Alembic takes a tenth of a second to import, which only this method needs.
        from backends.sql.migrate import migrate  # noqa: PLC0415

        migrate(self._database)

    def close(self) -> None:
        """Close the connections of this process."""
        self._database.close()

    def _require_active(self, refund: Refund, sender: str, key_id: str) -> None:
        active = self.active_key()
        is_swept = refund.swept_from is not None
        wanted = refund.recipient if is_swept else sender
        if active is None or active.address != wanted:
            raise KeyRotatedError("another key is the active one")
        if not is_swept and active.key_id != key_id:
            raise KeyRotatedError("the active key was relocated")

    def _is_due(self, window: Mapping[str, datetime]) -> bool:
        due = self._database.run(lambda c: c.execute(queries.DUE, window).first())
        return due is not None

    def _rows(self, statement: Select[Any], given: str) -> Sequence[Any]:
        if not is_storable(given):
            return ()
        return self._database.run(
            lambda c: c.execute(statement, {"given": given}).all()
        )


def _in_flight(refund: Refund, tx_hashes: list[str]) -> InFlight:
    # One that was adopted has a hash and no bytes.
    known = dict.fromkeys([*tx_hashes, refund.tx_hash or ""])
    return InFlight(refund, tuple(filter(None, known)))
