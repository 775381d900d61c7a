"""What Alembic runs: the migrations, on the connection that ``migrate`` holds."""

from alembic import context

from backends.sql.schema import metadata


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite can, once the driver's own BEGIN is off.
    render_as_batch=True,  # SQLite alters a table by making a new one.
)
context.run_migrations()
