"""Redis: the bundled server as a child process, and RQ's queues on any server."""
