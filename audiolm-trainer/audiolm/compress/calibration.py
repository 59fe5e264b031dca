"""The clips that a changed model is tried on: the first of an annotation, one batch each.

In: a configuration and an annotation. Out: `CalibrationClip`s with the evaluation prompt of their
task, audio loaded.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from audiolm.audio.features import LogMel
from audiolm.config import Config
from audiolm.data.annotations import check_clips, iterate_clips
from audiolm.data.batches import collate
from audiolm.data.dataset import AudioDataset
from audiolm.errors import UserError
from audiolm.models.device import move_to
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import LlmInputs
from audiolm.prompts import PromptBook, apply_template


@dataclass(frozen=True)
class CalibrationClip:
    """A batch of one clip (see `SALMONN.forward`), and its whole prompt."""

    samples: dict[str, Any]
    prompt: str

    def prepare(self, model: SALMONN, answer: str | None = None) -> LlmInputs:
        """The LLM's row of this clip; with `answer`, as in training, else with the clip's text."""
        text = self.samples["text"][0] if answer is None else answer
        samples = move_to(self.samples, model.speech_llama_proj.weight.device)
        return model.prepare(samples, [self.prompt], [model.tokenize_answer(text)])


def load_calibration(
    config: Config,
    annotation: str,
    prefix: str,
    num_clips: int,
    *,
    require_text: bool = False,
) -> list[CalibrationClip]:
    """The first `num_clips` of an annotation; paths start from `prefix`, or datasets.prefix.

    Raises:
        UserError: no clip, one that cannot be read, or (with `require_text`) one without text.
    """
    clips = list(islice(iterate_clips(annotation), num_clips))
    check_clips(annotation, clips, require_text=require_text)
    if not clips:
        raise UserError(f"--calibration {annotation}: it has no entries")
    book = PromptBook.load(config.model.test_prompt_path)
    log_mel = LogMel.from_pretrained(
        config.datasets.whisper_path or config.model.whisper_path, token=config.model.token or None
    )
    dataset = AudioDataset(clips, prefix or config.datasets.prefix, log_mel)
    return [
        CalibrationClip(
            collate([dataset[position]]),
            apply_template(config.model.prompt_template, book.first(clip.task, clip.question)),
        )
        for position, clip in enumerate(clips)
    ]
