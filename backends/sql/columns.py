"""Column types that are exact on both databases and check what they store."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator


UINT256_MAX = 2**256 - 1

# Texts are compared as bytes.  The order of a locale changes with the C library, which
# silently corrupts unique indexes, and these prevent double payments.
Plain = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


class Uint256(TypeDecorator[int]):
    """
    An integer from 0 to 2**256 - 1, the range of an EVM word; others: ``ValueError``.

    On PostgreSQL it is ``NUMERIC(78, 0)``.  SQLite's integers end at 2**63 - 1, and
    larger numbers become floats; there it is text of 78 zero-padded digits, which sorts
    like the numbers.
    """

    impl = sa.Numeric(78, 0).with_variant(sa.String(78), "sqlite")
    cache_ok = True

    def process_bind_param(
        self, value: int | None, dialect: sa.Dialect
    ) -> str | Decimal | None:
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= UINT256_MAX:
            raise ValueError("not an integer from 0 to 2**256 - 1")
        return f"{value:078d}" if dialect.name == "sqlite" else Decimal(value)

    def process_result_value(
        self, value: str | Decimal | None, dialect: sa.Dialect
    ) -> int | None:
        return None if value is None else int(value)


class UTCDateTime(TypeDecorator[datetime]):
    """
    A time in UTC, to the microsecond; one without a time zone is a ``ValueError``.

    On PostgreSQL it is ``timestamptz``.  SQLite has no type for times; there it is ISO
    8601 text of fixed width, which sorts like the times.
    """

    impl = sa.DateTime(timezone=True).with_variant(sa.String(32), "sqlite")
    cache_ok = True

    # A refund has 40 of them: both are functions without another call in between.

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any]:
        return _write_time if dialect.name == "sqlite" else _in_utc

    def result_processor(
        self, dialect: sa.Dialect, coltype: object
    ) -> Callable[[Any], Any]:
        return _read_time if dialect.name == "sqlite" else _in_utc


def _in_utc(value: datetime | None) -> datetime | None:
    if value is None or value.tzinfo is UTC:
        return value
    if value.tzinfo is None:
        raise ValueError("the time has no time zone")
    return value.astimezone(UTC)


@lru_cache(maxsize=64)  # The rows of a batch have the same times.
def _write_time(value: datetime | None) -> str | None:
    moment = _in_utc(value)
    return None if moment is None else moment.isoformat(timespec="microseconds")


@lru_cache(maxsize=64)
def _read_time(value: str | None) -> datetime | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


class Named(TypeDecorator[StrEnum]):
    """A member of an enumeration, stored as its value: drivers know only strings."""

    impl = Plain
    cache_ok = True

    def __init__(self, members: type[StrEnum]) -> None:
        super().__init__()
        self.members = members

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any]:
        return _text_of

    def result_processor(
        self, dialect: sa.Dialect, coltype: object
    ) -> Callable[[Any], Any]:
        members, known = self.members, {each.value: each for each in self.members}

        def read(value: str | None) -> StrEnum | None:
            # The class raises the error for another text.
            return None if value is None else known.get(value) or members(value)

        return read


def _text_of(value: StrEnum | None) -> str | None:
    return None if value is None else value.value


class FreeText(TypeDecorator[str]):
    """
    Text from outside, such as the revert reason of a contract.

    NUL becomes U+FFFD and a surrogate "?", because neither can be stored: the text that
    explains a failure must not prevent the failure from being recorded.
    """

    impl = Plain
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode(errors="replace").decode()
