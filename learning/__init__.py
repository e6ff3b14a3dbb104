"""Asleep: no doors. It wakes on a queue, reads tables, and leaves an adapter and a row."""
