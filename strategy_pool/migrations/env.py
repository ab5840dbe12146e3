"""Runs the migrations on the connection that the history hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from strategy_pool._tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
