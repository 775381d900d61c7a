"""Column types: exact on both databases, strict about what goes in."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import DateTime, Dialect, Numeric, String, Text
from sqlalchemy.types import TypeDecorator, TypeEngine


UINT256_MAX = 2**256 - 1

# Bytes decide equality and order.  A locale's rules change with the C library,
# which silently breaks unique indexes: the ones that keep us from paying twice.
Plain = Text().with_variant(Text(collation="C"), "postgresql")


class Uint256(TypeDecorator[int]):
    """
    An integer from 0 to 2**256 - 1, the range of an EVM word.

    ``NUMERIC(78, 0)`` on PostgreSQL.  SQLite's integers end at 2**63 - 1 and its
    numbers become floats beyond, so there it is text of 78 digits, zero-padded:
    the order of the texts is the order of the numbers.
    """

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type by *dialect*."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(78))
        return dialect.type_descriptor(Numeric(78, 0))

    def process_bind_param(
        self, value: int | None, dialect: Dialect
    ) -> str | Decimal | None:
        """
        Return what the driver stores.

        Raises:
            ValueError: *value* is no integer, or out of range.
        """
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= UINT256_MAX:
            raise ValueError("not an integer from 0 to 2**256 - 1")
        return f"{value:078d}" if dialect.name == "sqlite" else Decimal(value)

    def process_result_value(
        self, value: str | Decimal | None, dialect: Dialect
    ) -> int | None:
        """Return the exact integer."""
        return None if value is None else int(value)


class UTCDateTime(TypeDecorator[datetime]):
    """
    A point in time, to the microsecond, in UTC.

    ``timestamptz`` on PostgreSQL; ISO 8601 text of fixed width on SQLite, which
    has no type for times, so that the order of the texts is the order of time.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type by *dialect*."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(32))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> str | datetime | None:
        """
        Return what the driver stores.

        Raises:
            ValueError: *value* is naive: nobody knows which moment it means.
        """
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without its zone")
        moment = value.astimezone(UTC)
        if dialect.name == "sqlite":
            return moment.isoformat(timespec="microseconds")
        return moment

    def process_result_value(
        self, value: str | datetime | None, dialect: Dialect
    ) -> datetime | None:
        """Return an aware time whose zone is ``datetime.UTC``."""
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(UTC)


class Named(TypeDecorator[StrEnum]):
    """A member of an enumeration by its name: readable in SQL, and easy to add to."""

    impl = Plain
    cache_ok = True

    def __init__(self, members: type[StrEnum]) -> None:
        super().__init__()
        self.members = members

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        """Return the name alone, since drivers treat enumerations specially."""
        return None if value is None else value.value

    def process_result_value(
        self, value: str | None, dialect: Dialect
    ) -> StrEnum | None:
        """Return the member of the enumeration."""
        return None if value is None else self.members(value)


class FreeText(TypeDecorator[str]):
    """
    Text from strangers, such as the words with which a contract reverts.

    What no database can hold (NUL, surrogates) is replaced, since a refund must
    not be stuck because of the words that explain its failure.
    """

    impl = Plain
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the nearest text that every database can hold."""
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode(errors="replace").decode()
