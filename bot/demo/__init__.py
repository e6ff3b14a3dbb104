"""`npllm demo`: the whole story on one machine, through the system's real doors."""
