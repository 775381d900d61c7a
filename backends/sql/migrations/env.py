"""Run by Alembic: runs the migrations on the connection of ``migrate``."""

from alembic import context


context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # SQLite supports it; the driver is in autocommit.
    render_as_batch=True,  # SQLite alters a table by copying it to a new one.
)
context.run_migrations()
