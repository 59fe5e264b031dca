"""`run.fsdp`: the LLM's frozen layers in pieces over all processes, gathered one at a time.

torch's FSDP2 (`fully_shard`) over the process group that accelerate has made; accelerate's own
FSDP becomes plain DDP on CPUs without a word. Each process holds its piece of every layer. What
trains, embedding table, output matrix, encoders and connector are whole on each, so that gradients,
optimiser and checkpoints are those of any other run.

All processes must gather the same layers in the same order, or they wait for each other for ever.
Micro-batches, clips and answers are not equally many everywhere: who has nothing to compute runs
the layers over one position, forward and, in training, backward.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from audiolm.config import Config
from audiolm.errors import UserError
from audiolm.models.adapter import base_llm
from audiolm.models.decode import generate_ids
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import LlmInputs
from audiolm.training.engine import sum_everywhere
from audiolm.training.interrupts import StopRequest


def check_sharding(config: Config, num_processes: int) -> None:
    """Refuse what `run.fsdp` cannot do.

    Raises:
        UserError: one process, an LLM that trains, or a quantised one.
    """
    if not config.run.fsdp:
        return
    if num_processes == 1:
        raise UserError(
            "run.fsdp: true splits the LLM over processes, and there is one; launch with torchrun "
            "--nproc_per_node=N, or set it to false (model.quantization: nf4 fits one card)"
        )
    if not config.model.freeze_llm:
        raise UserError(
            "run.fsdp: true splits frozen weights, and model.freeze_llm: false trains the LLM's; "
            "freeze the LLM and train an adapter (model.adapter), or set run.fsdp: false"
        )
    if config.model.objective == "ctc":
        raise UserError(
            "run.fsdp: true splits the LLM's layers, and model.objective: ctc does not run them; "
            "set run.fsdp to false"
        )
    quantization = "nf4" if config.model.low_resource else config.model.quantization
    if quantization != "none":
        raise UserError(
            "run.fsdp: true cannot split the packed weights of model.quantization: "
            f"{quantization}; use one of the two"
        )


class ShardedLayers:
    """The layers of an LLM, each split over the processes; every pass over them is collective.

    Args:
        llm: frozen but for its adapter, on the CPU or on the processes' device.
        accelerator: knows device and processes.
    """

    def __init__(self, llm: Any, accelerator: Accelerator) -> None:
        self._llm = base_llm(llm)
        decoder = self._llm.get_decoder()
        lists = [part for part in decoder.modules() if isinstance(part, nn.ModuleList)]
        layers = max(lists, key=lambda part: sum(p.numel() for p in part.parameters()))
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for layer in layers:
            trained = {p for p in layer.parameters() if p.requires_grad}
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
        # The root gathers nothing itself; it knows the order, so the next layer comes in time.
        fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))
        self._llm._is_fsdp_managed_module = True  # transformers then decodes until all are done

    def join_pass(self, *, has_backward: bool) -> None:
        """Go through the layers with the others, over one position that counts for nothing.

        What dropout draws for it is not missed by the process's own clips.
        """
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            embeds = self._one_position().requires_grad_(has_backward)
            with torch.set_grad_enabled(has_backward):
                logits = self._llm(inputs_embeds=embeds, use_cache=False).logits
                if has_backward:
                    (logits.sum() * 0).backward()

    def join_answer(self, model: SALMONN, generate_config: Any) -> None:
        """Decode next to nothing for as long as other processes decode."""
        embeds = self._one_position()
        ones = torch.ones(1, 1, dtype=torch.long, device=self._device)
        row = LlmInputs(embeds, ones, torch.full_like(ones, -100))
        generate_ids(model.llm, model.llama_tokenizer, row, generate_config, "")

    @property
    def _device(self) -> torch.device:
        return self._llm.get_input_embeddings().weight.device

    def _one_position(self) -> torch.Tensor:
        """(1, 1, H)."""
        table = self._llm.get_input_embeddings()
        with torch.no_grad():
            return table(torch.zeros(1, 1, dtype=torch.long, device=self._device))


def shard_llm(model: SALMONN, accelerator: Accelerator) -> ShardedLayers:
    """Split the LLM's layers, and move the model to the device of this process."""
    sharded = ShardedLayers(model.llm, accelerator)
    model.to(accelerator.device)
    return sharded


class Rounds:
    """The batches of a validation, until there are no more or a process was asked to stop.

    Where the LLM is sharded, processes go round by round: in each, those without clips call
    `join` while the others compute.

    Attributes:
        is_stopped: it was cut short.
    """

    def __init__(
        self,
        batches: Iterable[dict[str, Any]],
        accelerator: Accelerator,
        stop: StopRequest,
        join: Callable[[], None] | None,
    ) -> None:
        self._batches = batches
        self._accelerator = accelerator
        self._stop = stop
        self._join = join
        self.is_stopped = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._join is None:
            yield from self._alone()
        else:
            yield from self._together(self._join)

    def _alone(self) -> Iterator[dict[str, Any]]:
        for samples in self._batches:
            if self._stop.reason:
                self.is_stopped = True
                return
            if samples["id"]:
                yield samples

    def _together(self, join: Callable[[], None]) -> Iterator[dict[str, Any]]:
        batches = iter(self._batches)
        while True:
            samples = next(batches, None)
            has_clips = samples is not None and bool(samples["id"])
            flags = [samples is not None, has_clips, bool(self._stop.reason)]
            num_left, num_busy, num_stops = sum_everywhere(self._accelerator, flags)
            self.is_stopped = bool(num_stops)
            if not num_left or num_stops:
                return
            if samples is not None and has_clips:
                yield samples
            elif num_busy:
                join()
