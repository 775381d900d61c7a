"""Draws what the tables declare: their grants, and their part of the reference."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap

from sqlalchemy import Table

from backends.sql.table_declaration import ROLES, granted
from backends.sql.tables import metadata


ROOT = Path(__file__).resolve().parents[1]

PAGE = "docs/reference/database.md"

_REVISION = "alembic_version"

_INITIALS = ("SELECT", "INSERT", "UPDATE", "DELETE")

_ALL = ", ".join(f"hotwallet_{role}" for role in ROLES)

_GRANTS = f"""\
-- Generated from backends/sql/tables.py by python -m dev.reference_pages.
-- Grants each role what its process needs, and no more: docs/reference/database.md,
-- "Roles".  The owner runs this file after each `hotwallet db upgrade`.
\\set ON_ERROR_STOP on
BEGIN;
-- A restored database has no privileges on itself: no dump has them.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO {_ALL};

-- An earlier release granted more.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {_ALL};
GRANT SELECT ON {_REVISION} TO {_ALL};
"""


def draw_grants() -> str:
    """Return the SQL file that grants the roles what the tables declare."""
    lines = [_GRANTS]
    for role, task in ROLES.items():
        lines += [f"-- {line}" for line in wrap(f"{task}.".replace("`", ""), 84)]
        for table in metadata.tables.values():
            if privileges := granted(table, role):
                given = ", ".join(_of_columns(table, *p) for p in privileges.items())
                grant = f"GRANT {given} ON {table.name} TO hotwallet_{role};"
                lines += wrap(grant, 88, subsequent_indent="    ")
        lines.append("")
    return "\n".join([*lines, "COMMIT;", ""])


def _of_columns(table: Table, privilege: str, columns: Sequence[str]) -> str:
    if privilege == "DELETE" or {*columns} == {*table.c.keys()}:
        return privilege
    return f"{privilege} ({', '.join(columns)})"


def draw_database() -> str:
    """Return the page of the database, with what the tables declare as it is now."""
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for name, draw in _PARTS.items():
        begin, end = f"<!-- {name}: generated", f"<!-- end of {name} -->"
        found = re.search(rf"({begin}[^\n]*\n)(.*?)({end})", page, re.DOTALL)
        if found is None:
            raise ValueError(f"{PAGE} has no part {name}")
        page = page.replace(found[0], "".join([found[1], "\n", draw(), "\n", found[3]]))
    return page


def _rows(heading: str, rows: Iterator[str]) -> str:
    columns = heading.count("|") - 1
    return "\n".join([heading, "|" + " --- |" * columns, *rows, ""])


def _contents() -> str:
    tables = metadata.tables.values()
    return "".join(f"* `{t.name}`: {t.info['doc']}\n" for t in tables)


def _sealed() -> str:
    tables = metadata.tables.values()
    sealed = (
        f"| `{t.name}` | {_covered(t)} | {t.info['verified']} | {t.info['otherwise']} |"
        for t in tables
        if not t.info["unprotected"]
    )
    others = (
        f"* `{t.name}`: {t.info['unprotected']}\n"
        for t in tables
        if t.info["unprotected"]
    )
    return "\n".join(
        [
            _rows("| table | covered | verified | if it is not valid |", sealed),
            "Tables without MACs, and why:\n",
            "".join(others),
        ]
    )


def _covered(table: Table) -> str:
    """Return which columns the MAC covers, and why not the others."""
    reasons: dict[str, list[str]] = {}
    for column in table.c:
        if reason := column.info.get("unprotected"):
            reasons.setdefault(reason, []).append(f"`{column.name}`")
    but = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    return f"every column but {but}" if but else "every column"


def _privileges() -> str:
    heading = " | ".join(f"`hotwallet_{role}`" for role in ROLES)
    rows = [
        f"| `{t.name}` | {' | '.join(_initials(t, role) for role in ROLES)} |"
        for t in metadata.tables.values()
    ]
    rows.append(f"| `{_REVISION}` |" + " S |" * len(ROLES))
    return _rows(f"| table | {heading} |", iter(rows))


def _initials(table: Table, role: str) -> str:
    """Return the initials of the privileges on *table*; a star: on some columns."""
    privileges = granted(table, role)
    cell = [
        each[0] + "*" * ("(" in _of_columns(table, each, privileges[each]))
        for each in _INITIALS
        if each in privileges
    ]
    return " ".join(cell) or "-"


_PARTS: Mapping[str, Callable[[], str]] = {
    "tables": _contents,
    "MACs": _sealed,
    "grants": _privileges,
}
