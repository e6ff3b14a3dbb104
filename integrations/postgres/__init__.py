"""Postgres with pgvector: the bundled server, as a child process."""
