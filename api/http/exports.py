"""Files with refunds, sent while they are read."""

from collections.abc import Callable, Iterator
from itertools import chain

from falcon import Response

from api.http.concurrency import Slots
from api.views.refund_files import MEDIA_TYPES, write_refunds
from signer.errors import RateLimitedError
from signer.ports.refund_reports import RefundFilter, RefundReports


_AT_ONCE = 4
"""Exports of one process: each occupies a thread."""


class Exports:
    """Sends files of refunds; a caller gets one at a time."""

    def __init__(self, search: RefundReports) -> None:
        self._search = search
        self._slots = Slots(_AT_ONCE)

    def send(
        self, resp: Response, wanted: RefundFilter, format_: str, *, caller: str
    ) -> None:
        """
        Answer the *wanted* refunds in *format_*.

        If the database fails after the first page, the connection is closed without the
        last chunk, which every client reports.

        Raises:
            RateLimitedError: *caller* receives another export, or too many others do.
            StoreError: The database does not answer.
        """
        if not self._slots.enter(caller, 1):
            raise RateLimitedError(
                "Another export is being sent; wait until it is complete.",
                retry_after=5,
            )
        pieces = map(str.encode, write_refunds(self._search, wanted, format_))
        stream = Stream(pieces, lambda: self._slots.leave(caller))
        try:
            stream.read_ahead()
        except BaseException:
            stream.close()
            raise
        resp.stream = stream
        resp.content_type = MEDIA_TYPES[format_]
        resp.downloadable_as = f"refunds.{format_}"


class Stream:
    """A body of *pieces*; *release* is called once, when the server is done."""

    def __init__(self, pieces: Iterator[bytes], release: Callable[[], None]) -> None:
        self._pieces = pieces
        self._release: Callable[[], None] | None = release

    def read_ahead(self) -> None:
        """Make the first piece now, before the status is sent."""
        self._pieces = chain([next(self._pieces)], self._pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Release the place; WSGI servers call it, also after a failure."""
        release, self._release = self._release, None
        if release is not None:
            release()
