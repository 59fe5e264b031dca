"""Loss and token accuracy on the validation set, each clip once over all processes."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator

from audiolm.models.device import move_to
from audiolm.models.salmonn import SALMONN
from audiolm.prompts import apply_template


@dataclass(frozen=True)
class ValidationResult:
    """`loss` is nats per answer token, `token_accuracy` a fraction of answer tokens."""

    loss: float
    token_accuracy: float
    num_clips: int
    num_tokens: int

    def as_dict(self) -> dict[str, float]:
        """The numbers by name, for the log."""
        return asdict(self)

    def describe(self) -> str:
        """One line for the screen."""
        return (
            f"loss {self.loss:.4f}, token accuracy {self.token_accuracy:.3f}, "
            f"{self.num_clips} clips"
        )


@torch.no_grad()
def validate(
    model: SALMONN, batches: Iterable[dict[str, Any]], accelerator: Accelerator
) -> ValidationResult:
    """Score `batches` (this process's share) with each task's first training prompt.

    `model` is the bare model, not its distributed wrapper: processes may have unequal numbers of
    batches. It is left in the mode it came in.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)  # loss, correct, tokens, clips
    for samples in batches:
        if samples["text"]:
            prompts = first_prompts(model, samples)
            output = model(move_to(samples, accelerator.device), verbose=True, prompts=prompts)
            total = output["total"]
            loss_sum = float(output["loss"]) * total
            sums += torch.tensor([loss_sum, output["correct"], total, len(samples["text"])])
    model.train(was_training)
    sums = accelerator.reduce(sums.to(accelerator.device, torch.float32), reduction="sum")
    loss_sum, correct, tokens, clips = sums.tolist()  # type: ignore[union-attr]
    tokens = max(tokens, 1)
    return ValidationResult(loss_sum / tokens, correct / tokens, int(clips), int(tokens))


def first_prompts(model: SALMONN, samples: dict[str, Any]) -> list[str]:
    """Each sample's prompt without a draw, so that epochs compare."""
    assert model.prompts is not None
    template = model.text_options.prompt_template
    pairs = zip(samples["task"], samples["Q"], strict=True)
    return [apply_template(template, model.prompts.first(task, q)) for task, q in pairs]
