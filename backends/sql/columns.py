"""Column types that are exact on both databases and check what they store."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import DateTime, Dialect, Numeric, String, Text
from sqlalchemy.types import TypeDecorator


UINT256_MAX = 2**256 - 1

# Texts are compared as bytes.  The order of a locale changes with the C library, which
# silently corrupts unique indexes, and these prevent double payments.
Plain = Text().with_variant(Text(collation="C"), "postgresql")


class Uint256(TypeDecorator[int]):
    """
    An integer from 0 to 2**256 - 1, the range of an EVM word; others: ``ValueError``.

    On PostgreSQL it is ``NUMERIC(78, 0)``.  SQLite's integers end at 2**63 - 1, and
    larger numbers become floats; there it is text of 78 zero-padded digits, which sorts
    like the numbers.
    """

    impl = Numeric(78, 0).with_variant(String(78), "sqlite")
    cache_ok = True

    def process_bind_param(
        self, value: int | None, dialect: Dialect
    ) -> str | Decimal | None:
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= UINT256_MAX:
            raise ValueError("not an integer from 0 to 2**256 - 1")
        return f"{value:078d}" if dialect.name == "sqlite" else Decimal(value)

    def process_result_value(
        self, value: str | Decimal | None, dialect: Dialect
    ) -> int | None:
        return None if value is None else int(value)


class UTCDateTime(TypeDecorator[datetime]):
    """
    A time in UTC, to the microsecond; one without a time zone is a ``ValueError``.

    On PostgreSQL it is ``timestamptz``.  SQLite has no type for times; there it is ISO
    8601 text of fixed width, which sorts like the times.
    """

    impl = DateTime(timezone=True).with_variant(String(32), "sqlite")
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> str | datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the time has no time zone")
        moment = value.astimezone(UTC)
        if dialect.name == "sqlite":
            return moment.isoformat(timespec="microseconds")
        return moment

    def process_result_value(
        self, value: str | datetime | None, dialect: Dialect
    ) -> datetime | None:
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(UTC)


class Named(TypeDecorator[StrEnum]):
    """A member of an enumeration, stored as its value: drivers know only strings."""

    impl = Plain
    cache_ok = True

    def __init__(self, members: type[StrEnum]) -> None:
        super().__init__()
        self.members = members

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        return None if value is None else value.value

    def process_result_value(
        self, value: str | None, dialect: Dialect
    ) -> StrEnum | None:
        return None if value is None else self.members(value)


class FreeText(TypeDecorator[str]):
    """
    Text from outside, such as the revert reason of a contract.

    NUL becomes U+FFFD and a surrogate "?", because neither can be stored: the text that
    explains a failure must not prevent the failure from being recorded.
    """

    impl = Plain
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode(errors="replace").decode()
