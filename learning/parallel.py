"""Several processes train one adapter, each with its part of every batch.

    TRAINING_PROCESSES=4: the night starts   accelerate launch ... -m learning.parallel RUN_ID   (or torchrun) itself

Process 0 runs the night. The others know no database: they wait for what it trains on, train along, and end with it.
The parts' gradients are summed after every batch, so all processes hold the same weights, and they are those that one
process alone would have (tests/learning/test_parallel.py). Alone, every function here does nothing: one code path.
"""

import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce

from core.errors import NightError
from core.parent import end_with
from learning.dataset import Row

if TYPE_CHECKING:
    from learning.training import Training

_NIGHT = "NPLLM_NIGHT_PID"  # of the work horse that started the processes: they end with it


@lru_cache(maxsize=1)
def _state() -> PartialState:
    """Which of the processes this is; accelerate reads it from the launcher's environment, and picks this one's GPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def is_first() -> bool:
    return bool(_state().is_main_process)


def mine(rows: Sequence[Row]) -> Sequence[Row]:
    """This process's part of a batch."""
    return rows[_state().process_index :: _state().num_processes]


def add_up(parameters: Iterable[torch.nn.Parameter], loss: float) -> float:
    """Sum the parts' gradients into `.grad`, everywhere the same; returns the summed loss."""
    if _state().num_processes == 1:
        return loss
    parameters = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    parts = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_tensor([loss])])
    *summed, losses = reduce(parts, "sum").split([*(p.numel() for p in parameters), 1])
    for parameter, gradient in zip(parameters, summed, strict=True):
        parameter.grad = gradient.view_as(parameter)
    return float(losses)


def total(value: float) -> float:
    """The sum of what the processes have; for decisions that all of them must take alike."""
    if _state().num_processes == 1:
        return value
    return float(reduce(torch.tensor(float(value), device=_state().device), "sum"))


def share(training: "Training | None") -> None:
    """Process 0: the others train along with this; None sends them home."""
    if _state().num_processes > 1:
        broadcast_object_list([training])


def follow() -> None:
    """All other processes: train along until there is nothing more."""
    while True:
        box: list[Any] = [None]
        broadcast_object_list(box)
        if box[0] is None:
            return part()
        try:
            box[0].run()
        except NightError:
            continue  # process 0 met the same one, and says so


def part() -> None:
    """The last thing each process does: one that ended with a connection open would end with an abort."""
    _state().destroy_process_group()


def launch(run_id: uuid.UUID, processes: int) -> None:
    """Run a night in so many processes on this machine.

    Raises:
        NightError: they ended badly; the night goes on where it stopped when it is tried again.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
               "-m", "learning.parallel", str(run_id)]  # fmt: skip
    if torch.cuda.is_available():
        command[2:5] = ["accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}"]
    if code := subprocess.run(command, env=os.environ | {_NIGHT: str(os.getpid())}).returncode:
        raise NightError(f"The night's {processes} processes ended with {code}.", "See the worker's log.")


def main() -> None:
    """One of the processes."""
    from core.settings import load_settings
    from learning.jobs import night

    if _NIGHT in os.environ:
        end_with(int(os.environ[_NIGHT]))
    if not is_first():
        return follow()
    try:
        night(uuid.UUID(sys.argv[1]), load_settings())
    finally:
        share(None)
        part()


if __name__ == "__main__":
    main()
    logging.shutdown()
    # As RQ's work horse ends: threads of torch and of the gate's engine do not outlive an interpreter that winds up.
    os._exit(0)
