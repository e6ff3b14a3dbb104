"""A ledger and a doorbell of a bench's own, thrown away afterwards."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bot.up.supervisor import Supervisor
from bot.up.system import System, make_system
from core.migrate import migrate
from core.settings import load_settings, runtime_file


@contextlib.contextmanager
def temporary_ground() -> Iterator[tuple[System, Supervisor]]:
    """An embedded Postgres and Redis, migrated, with the simulator's secrets, for the body of the `with`.

    What is set in the environment (DATABASE_URL, ...) is left out of it: a bench never touches a system in use.
    """
    parent = "/var/tmp" if os.geteuid() == 0 else None  # Postgres' unprivileged user has to reach it
    folder = Path(tempfile.mkdtemp(prefix="npllm-bench-", dir=parent))
    kept = {name: os.environ.pop(name) for name in ("DATABASE_URL", "REDIS_URL", "PORT") if name in os.environ}
    settings = load_settings(running=False, data_dir=folder, simulator="on")
    supervisor: Supervisor | None = None
    try:
        system = make_system(settings)
        supervisor = Supervisor(folder / "logs", system.run / "status.json", {})
        first = system.first_parts()
        supervisor.launch(*first)
        supervisor.wait_for(*first)
        migrate(system.environment["DATABASE_URL"])
        yield system, supervisor
    finally:
        if supervisor is not None:
            supervisor.stop()
        runtime_file(folder).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.update(kept)
