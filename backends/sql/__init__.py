"""
The ledger in SQL: SQLite on one host, PostgreSQL on several.

This package has the tables, their migrations and every statement that reads or changes
them.  It imports SQLAlchemy, Alembic, the drivers and ``signer``, and no other backend.
"""

from backends.sql.store import SQLStore


__all__ = ["SQLStore"]
