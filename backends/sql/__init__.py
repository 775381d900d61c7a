"""The ledger in SQL: SQLite embedded, PostgreSQL when scaled out."""

from backends.sql.store import SQLStore


__all__ = ["SQLStore"]
