"""Alembic migrations, run by `npllm migrate`."""
