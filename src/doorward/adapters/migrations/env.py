"""Run by Alembic: apply the steps to the file that state.py names."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

engine = create_engine(f"sqlite:///{context.config.attributes['path']}")
with engine.connect() as connection:
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
engine.dispose()
