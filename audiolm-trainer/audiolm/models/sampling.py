"""Sampling whose outcome for a clip depends on the clip's own seed, not on its batch.

In: scores of the next token, row by row. Out: the same scores plus noise, whose largest is a draw
from the distribution they describe (the Gumbel-max trick; Gumbel 1954, Maddison et al. 2014).
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from audiolm.config import GenerateConfig
from audiolm.errors import UserError


class SeededNoise(LogitsProcessor):
    """Adds Gumbel noise to each row's scores, from the row's own generator."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(R, V) scores -> (R, V) scores of which the largest is the drawn token."""
        uniform = torch.stack(
            [torch.rand(scores.shape[1], generator=generator) for generator in self.generators]
        )
        noise = -torch.log(-torch.log(uniform.clamp(min=1e-20)))
        return scores + noise.to(scores)


def build_samplers(temperature: float, top_p: float, seeds: Sequence[int]) -> LogitsProcessorList:
    """Temperature, nucleus and draw, for greedy decoding to follow.

    Raises:
        UserError: a temperature or top_p that cannot be.
    """
    if temperature <= 0:
        raise UserError(
            f"generate.temperature: {temperature} must be above 0; for no randomness set "
            "generate.do_sample: false"
        )
    if not 0 < top_p <= 1:
        raise UserError(f"generate.top_p: {top_p} must be above 0 and at most 1")
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    processors.append(SeededNoise(seeds))
    return processors


def choose_samplers(
    options: GenerateConfig, num_rows: int, seeds: Sequence[int] | None
) -> LogitsProcessorList:
    """What draws each row's tokens; nothing where the best is taken, or beams are drawn.

    `seeds` None draws them from torch's generator.
    """
    if not options.do_sample or options.num_beams > 1:
        return LogitsProcessorList()
    if seeds is None:
        seeds = torch.randint(2**62, (num_rows,)).tolist()
    return build_samplers(options.temperature, options.top_p, seeds)
