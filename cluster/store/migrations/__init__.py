"""Alembic migrations of our own database; run by ``cluster.store.database``, never by hand."""
