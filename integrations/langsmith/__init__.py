"""LangSmith: redacted traces, when a key is set."""
