"""Several processes that decode one data set together, launched by torchrun.

In: the environment that torchrun sets. Out: which process this is, and how it waits for the others
and hears from the first. Only plain values cross, over gloo: decoding itself needs no exchange.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

Value = TypeVar("Value")

# How long the first process to finish waits for the last; torchrun ends all when one fails.
LONGEST_WAIT = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process among all; alone, it waits for nobody."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls) -> "Processes":
        """Meet the other processes, if torchrun launched several."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=True, timeout=LONGEST_WAIT)
        return cls(state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this process writes what there is one of."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.world_size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def share(self, value: Value | None) -> Value:
        """The first process' value, on every process."""
        values = [value]
        if self.world_size > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(values)
        assert values[0] is not None
        return values[0]

    def choose_device_name(self, name: str) -> str:
        """`run.device`, with a GPU for each process where none is named."""
        if self.world_size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            local_rank = int(os.environ.get("LOCAL_RANK", "0"))
            return f"cuda:{local_rank % torch.cuda.device_count()}"
        return name
