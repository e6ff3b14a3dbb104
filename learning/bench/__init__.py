"""`npllm bench continual`: task sequences through the night's own code."""
