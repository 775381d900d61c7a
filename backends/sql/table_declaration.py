"""
How a table is declared, once: its row, rules of the database, grants and documentation.

``docker/grants.sql`` and ``docs/reference/database.md`` are generated from it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from backends.sql.columns import FreeText, Named, Plain, Uint256, UTCDateTime
from signer.model.sealed_fields import KINDS, Storage, StoredField, stored_fields


ROLES: Mapping[str, str] = {
    "refunds": "`serve --role refunds`: accepts refunds, and requests that they are"
    " cancelled",
    "worker": "`worker`: moves refunds, follows and ends their approvals, reconciles"
    " wallets, enrols and retires keys, stops, accepts limits, seals, delivers events,"
    " and deletes old ones",
    "admin": "`serve --role admin`, and the commands of operators",
    "sign": "`serve --role sign`: signs with the active key, and accepts what clients"
    " of JSON-RPC send",
}
"""The processes that have a database role of their own, and what they do."""

READABLE = "BETWEEN TIMESTAMPTZ '1970-01-01 UTC' AND TIMESTAMPTZ '9999-12-30 UTC'"
"""The condition on PostgreSQL that Python can read a time."""

TABLES = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

_STORED: Mapping[Any, Any] = {
    Storage.UINT256: Uint256,
    Storage.FREE_TEXT: FreeText,
    Storage.SMALL: sa.Integer,
    int: sa.BigInteger,
    str: Plain,
    bytes: sa.LargeBinary,
    datetime: UTCDateTime,
}

_GRANT = re.compile(r"(SELECT|INSERT|UPDATE|DELETE)(?: \(([^)]*)\))?")


def declare(
    name: str,
    *items: type[Any] | SchemaItem,
    doc: str,
    grants: Mapping[str, str],
    verified: str = "",
    otherwise: str = "",
    unprotected: str = "",
    defaults: Mapping[str, str] | None = None,
    **options: Any,
) -> sa.Table:
    """
    Return the table *name*; a class among *items* stands for the columns of its fields.

    *doc* says what it has.  *grants* are privileges in SQL, by the names of roles with
    spaces, or "all".  *verified* says when the MAC of a row is, and *otherwise* what
    happens if it is not valid; *unprotected* why rows without a MAC need none.
    *defaults* are those of the database, for columns that a role may not set.

    Raises:
        TypeError: A row or a column has no MAC, and no reason why.
    """
    classes = [each for each in items if isinstance(each, type)]
    is_sealed = any(kind in KINDS for kind in classes)
    if is_sealed == bool(unprotected) or is_sealed != bool(verified and otherwise):
        raise TypeError(f"{name}: either a MAC or a reason why there is none")
    columns: list[SchemaItem] = []
    for each in items:
        if isinstance(each, type):
            columns += [_column(f, defaults or {}) for f in stored_fields(each)]
            continue
        if isinstance(each, sa.Column) and is_sealed and "unprotected" not in each.info:
            raise TypeError(f"{name}.{each.name}: no MAC, and no reason why")
        columns.append(each)
    table = sa.Table(name, TABLES, *columns, **options)
    limited = {c.name for c in table.constraints if isinstance(c, sa.CheckConstraint)}
    for column in table.c:
        if isinstance(column.type, Named) and f"ck_{name}_{column.name}" not in limited:
            table.append_constraint(one_of(column.name, column.type.members))
    table.info.update(
        doc=doc,
        verified=verified,
        otherwise=otherwise,
        unprotected=unprotected,
        grants=_parse_grants(table, grants),
    )
    return table


def outside(name: str, kind: type[TypeEngine[Any]], reason: str) -> sa.Column[Any]:
    """Return a column that the class does not have, and no MAC covers, for *reason*."""
    return sa.Column(name, kind, info={"unprotected": reason})


def one_of(column: str, members: Iterable[StrEnum]) -> sa.CheckConstraint:
    return sa.CheckConstraint(is_in(column, members), column)


def is_in(column: str, members: Iterable[str]) -> str:
    """
    Return the SQL condition that *column* is one of *members*, with literals.

    With parameters instead, neither planner would use a partial index.
    """
    names = ", ".join(f"'{name}'" for name in sorted(members))
    return f"{column} IN ({names})"


def check(name: str, *, sqlite: str = "", postgresql: str = "") -> list[SchemaItem]:
    """Return the constraint *name*, which differs between the databases."""
    conditions = {"sqlite": sqlite, "postgresql": postgresql}
    return [
        sa.CheckConstraint(condition, name).ddl_if(dialect=dialect)
        for dialect, condition in conditions.items()
        if condition
    ]


def partial(name: str, *columns: str, where: str, unique: bool = False) -> sa.Index:
    """Return an index of the rows for which *where* holds."""
    condition = sa.text(where)
    return sa.Index(
        name,
        *columns,
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def octets(kind: type[Any], *names: str) -> str:
    """Return in SQL how many bytes the texts among the fields *names* have, or all."""
    texts = [each.name for each in stored_fields(kind) if each.type is str]
    some = [f"coalesce({each}, '')" for each in texts if each in (names or texts)]
    return f"octet_length({' || '.join(some)})"


def granted(table: sa.Table, role: str) -> Mapping[str, Sequence[str]]:
    """Return the privileges of *role* on *table*, each with its columns."""
    grants: Mapping[str, Mapping[str, Sequence[str]]] = table.info["grants"]
    return grants.get(role, {})


def _column(stored: StoredField, defaults: Mapping[str, str]) -> sa.Column[Any]:
    marks = [*stored.storage, stored.type]
    kind = next((_STORED[each] for each in marks if each in _STORED), None)
    return sa.Column(
        stored.name,
        Named(stored.type) if kind is None else kind,
        primary_key=Storage.KEY in stored.storage,
        nullable=stored.is_nullable,
        autoincrement=False,
        server_default=defaults.get(stored.name),
        info={"unprotected": stored.unprotected} if stored.unprotected else {},
    )


def _parse_grants(
    table: sa.Table, grants: Mapping[str, str]
) -> dict[str, dict[str, list[str]]]:
    """Return the columns of each privilege by role: all, if none is named."""
    parsed: dict[str, dict[str, list[str]]] = {}
    for names, privileges in grants.items():
        if _GRANT.sub("", privileges).strip(", "):
            raise TypeError(f"{table.name} cannot grant {privileges!r}")
        for role in ROLES if names == "all" else names.split():
            of_role = parsed.setdefault(role, {})
            for privilege, columns in _GRANT.findall(privileges):
                some = [each.strip() for each in columns.split(",") if columns]
                if not {*some} <= {*table.c.keys()}:
                    raise TypeError(f"{table.name} has no {columns} to grant")
                known = of_role.setdefault(privilege, [])
                known += some or table.c.keys()
    return parsed
