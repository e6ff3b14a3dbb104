"""Recado, a messaging vendor that does not exist: the integration to copy. It is wired into nothing.

docs/tutorials/new-integration.md follows it through every file.
"""
