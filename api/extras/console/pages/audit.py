"""The pages of the audit log: its state, a search, and a download of the export."""

from collections.abc import Iterator
from threading import Lock

from falcon import Request, Response

from api.extras.console.audit import (
    RecordFilter,
    read_audit,
    search_records,
    verify_with,
)
from api.extras.console.pages.session_page import (
    Console,
    SessionPage,
    next_page,
    read_sequence,
)
from api.extras.console.trends import plot_checkpoints
from api.http import query
from api.request_context import actor
from signer.audit.actions import AuditAction
from signer.audit.export import export
from signer.errors import (
    ConflictError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.audit_record import Operation


MOST_EXPORTED = 50_000
"""How many records a download has, at most."""

_BLOCK = 64 * 1024


class AuditPage(SessionPage):
    """``/console/audit``: how far the log is sealed and signed, and a search."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show the state of the chain, and the records that the fields describe."""
        names = ("event", "actor", "refund", "since", "until", "before")
        given = query.parameters(req, *names, from_form=True)
        wanted = RecordFilter(
            given.get("event"),
            given.get("actor"),
            given.get("refund"),
            query.moment(given, "since"),
            query.moment(given, "until"),
        )
        container = self._console.container
        found = search_records(
            container.store, container.row_macs, wanted, read_sequence(given)
        )
        self.show(
            req,
            resp,
            "audit.html",
            it=read_audit(container),
            found=found,
            given=given,
            following=next_page(given, "before", found.before),
            checkpoints=plot_checkpoints(container.store, verify_with(container)),
            most_exported=MOST_EXPORTED,
        )


class AuditExport(SessionPage):
    """``/console/audit/export``: the whole chain as a file, on record."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._is_exporting = Lock()

    def on_post(self, req: Request, resp: Response) -> None:
        """
        Answer the export.

        Raises:
            ConflictError: The chain is too long for a download, or another download of
                this process is in progress.
        """
        self.read_form(req)
        container = self._console.container
        if container.store.head()[0] > MOST_EXPORTED:
            raise ConflictError(
                f"the log has more than {MOST_EXPORTED} records:"
                " run `hotwallet audit export --out audit.jsonl`"
            )
        if not self._is_exporting.acquire(blocking=False):
            raise ConflictError("another download is in progress: repeat it later")
        try:
            self._record(req)
            origin = f"hotwallet/{container.settings.audit_origin}"
            resp.stream = _Download(export(container.store, origin), self._is_exporting)
        except BaseException:
            self._is_exporting.release()
            raise
        resp.content_type = "application/jsonl"
        resp.downloadable_as = "audit.jsonl"

    def _record(self, req: Request) -> None:
        audit = self._console.container.audit
        record = audit.result(
            AuditAction.ADMIN_ACCESS,
            Operation.ADMINISTRATION,
            actor(req),
            route=req.uri_template,
        )
        try:
            audit.write(record)
        except (StoreError, OSError) as e:
            raise StoreUnavailableError("the audit cannot be written") from e


class _Download:
    """
    The blocks of a download.  The server closes it, also if the client went away.

    A download that breaks off has no last line, which ``hotwallet audit verify``
    notices.
    """

    def __init__(self, lines: Iterator[bytes], lock: Lock) -> None:
        self._lines = lines
        self._lock = lock
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        block = bytearray()
        for line in self._lines:
            block += line
            if len(block) >= _BLOCK:
                yield bytes(block)
                block.clear()
        yield bytes(block)

    def close(self) -> None:
        """Let the next download begin."""
        if not self._is_closed:
            self._is_closed = True
            self._lock.release()
