"""The asleep queue's entry points; thin. torch is imported inside the night, in the forked work horse alone."""

import logging
import uuid

from core.parent import end_with_parent
from core.settings import load_settings
from learning.claims import NightTaken

log = logging.getLogger(__name__)


def consolidate(run_id: str) -> None:
    """Run one night."""
    from learning.consolidate import consolidate as night

    end_with_parent()
    try:
        state = night(uuid.UUID(run_id), load_settings())
    except NightTaken as error:
        log.info("%s", error)
    else:
        log.info("Night %s: %s", run_id, state)
