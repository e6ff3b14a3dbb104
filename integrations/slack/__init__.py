"""Slack through bolt. Facts and their sources: docs/channels.md."""
