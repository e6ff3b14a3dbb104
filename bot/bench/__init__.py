"""`npllm bench`: figures of this machine and this code, as ratios to a baseline taken in the same run."""
