"""Awake: doors for customers, reviewers and operators. It answers and takes notes; it never trains."""
