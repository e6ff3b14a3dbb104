"""`npllm up`: the whole system on one machine, as child processes that are watched and restarted."""
