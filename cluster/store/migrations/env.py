"""What alembic runs: it migrates on the connection, and inside the transaction, that ``Database`` hands it."""

from __future__ import annotations

from alembic import context

from cluster.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="gaitway_alembic_version",
)
with context.begin_transaction():
    context.run_migrations()
