"""What an efficiency measurement needs: the configuration's files, the clips, the loaded model.

In: a configuration and the command line's choices. Out: clips and a `Question`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from audiolm.audio.features import LogMel
from audiolm.config import Config
from audiolm.evaluation.efficiency import Question, choose_timed_device
from audiolm.evaluation.timing_clip import (
    DEFAULT_SECONDS,
    TimingClip,
    build_noise_clip,
    build_synthetic_clip,
    load_timing_clip,
    store_clip,
)
from audiolm.models.compiled_step import check_compilable
from audiolm.models.device import inference_dtype
from audiolm.models.salmonn import SALMONN
from audiolm.prompts import PromptBook, apply_template


@dataclass(frozen=True)
class ClipChoice:
    """Which clips to time.

    Attributes:
        files: audio files; none: made clips.
        seconds: lengths; none: 10 s of a made clip, all of a file (at most 30 s).
        is_noise: made clips are white noise, else a synthetic voice.
        seed: of made clips.
    """

    files: Sequence[str] = ()
    seconds: Sequence[float] = ()
    is_noise: bool = False
    seed: int = 0

    def load(self, folder: Path) -> list[TimingClip]:
        """Every file at every length, or a made clip of every length, kept in `folder`.

        Raises:
            UserError: a length that is not allowed, or that a file does not have.
            AudioError: a file is missing or unreadable.
        """
        if self.files:
            lengths = self.seconds or (None,)
            return [load_timing_clip(path, length) for path in self.files for length in lengths]
        build = build_noise_clip if self.is_noise else build_synthetic_clip
        clips = [build(length, self.seed) for length in self.seconds or (DEFAULT_SECONDS,)]
        return [store_clip(clip, folder) for clip in clips]


def load_question(config: Config, task: str) -> Question:
    """The task's test prompt, the log-mel and the model.

    Raises:
        UserError: as `SALMONN.from_config`; no prompt for the task; a device that cannot be timed.
    """
    device = choose_timed_device(config.run.device)
    dtype = inference_dtype(config.run.precision, device)
    sentence = PromptBook.load(config.model.test_prompt_path).first(task, "")
    prompt = apply_template(config.model.prompt_template, sentence)
    whisper_path = config.datasets.whisper_path or config.model.whisper_path
    log_mel = LogMel.from_pretrained(whisper_path, token=config.model.token)
    torch.manual_seed(config.run.seed)  # of what no checkpoint fills
    options = dataclasses.replace(config.model, prompt_path="")  # training prompts are not read
    model = SALMONN.from_config(options, device=device, dtype=dtype)
    generate = config.generate
    check_compilable(model.llm, generate)
    return Question(
        model, log_mel, prompt, generate.end_sym, generate.prefix_cache, generate.torch_compile
    )
