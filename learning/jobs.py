"""The asleep queue's entry points; thin. torch is imported inside the night, in the forked work horse alone."""

import logging
import uuid

from core.parent import end_with_parent
from core.settings import Settings, load_settings
from learning.claims import NightTaken

log = logging.getLogger(__name__)


def consolidate(run_id: str) -> None:
    """Run one night, in TRAINING_PROCESSES processes."""
    end_with_parent()
    settings = load_settings()
    if settings.training_processes > 1:
        from learning.parallel import launch

        launch(uuid.UUID(run_id), settings.training_processes)
    else:
        night(uuid.UUID(run_id), settings)


def night(run_id: uuid.UUID, settings: Settings) -> None:
    """Run one night in this process, unless another worker has it."""
    from learning.consolidate import consolidate

    try:
        state = consolidate(run_id, settings)
    except NightTaken as error:
        log.info("%s", error)
    else:
        log.info("Night %s: %s", run_id, state)
