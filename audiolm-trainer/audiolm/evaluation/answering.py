"""Answer a prompt about one audio file: what the command line and the demo page share.

In: a configuration, an audio file, and a free prompt or a task's name. Out: the answer as text.

Letters: T samples at 16 kHz, M mel bins.
"""

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiolm.audio.features import LogMel
from audiolm.audio.loading import MAX_SECONDS, LongAudioPolicy, Waveform, load_waveform
from audiolm.config import Config
from audiolm.errors import UserError
from audiolm.models.device import half_dtype, move_to
from audiolm.models.salmonn import SALMONN
from audiolm.prompts import (
    PLACEHOLDER,
    SPEECH_MARKER,
    PromptBook,
    apply_template,
    split_at_marker,
)

DEFAULT_TASK = "asr"
AUDIO_BEFORE_PROMPT = f"<Speech>{SPEECH_MARKER}</Speech> "
# path options that must be there, for `config_file.load_config`
REQUIRED_PATHS = ("model.llama_path", "model.whisper_path", "model.test_prompt_path")

logger = logging.getLogger(__name__)


class Answerer:
    """A model in memory that answers one question after the other.

    Args:
        model: in eval mode, on `device`.
        log_mel: (T,) float32 waveform -> (M, 3000) log-mel; see `audio.features.LogMel`.
        prompts: sentences by task, for questions without a prompt.
        template: see `prompts.apply_template`.
        generate_cfg: the `generate` section.
        device: where the audio goes.
        long_audio: clips over 30 s: "truncate" takes their start, the others refuse them.
    """

    def __init__(
        self,
        model: SALMONN,
        log_mel: Callable[[np.ndarray], torch.Tensor],
        prompts: PromptBook,
        template: str,
        generate_cfg: Any,
        device: torch.device,
        *,
        long_audio: LongAudioPolicy = "truncate",
    ) -> None:
        self._model = model
        self._log_mel = log_mel
        self._prompts = prompts
        self._template = template
        self._generate_cfg = generate_cfg
        self._device = device
        self._long_audio: LongAudioPolicy = long_audio

    @classmethod
    def from_config(cls, config: Config, device: torch.device) -> "Answerer":
        """Load prompts and model, once. The configuration's input paths must be resolved.

        Raises:
            UserError: anything wrong with options, prompts or weights.
        """
        options = config.model
        prompts = PromptBook.load(options.test_prompt_path)
        apply_template(options.prompt_template, "")  # a mistake in it shows before a model is built
        log_mel = LogMel.from_pretrained(
            config.datasets.whisper_path or options.whisper_path, token=options.token or None
        )
        if not options.ckpt:
            logger.warning(
                "model.ckpt is not set: the connector between audio and LLM is untrained"
            )
        torch.manual_seed(config.run.seed)  # of what no checkpoint fills, and of do_sample
        model_options = dataclasses.replace(options, prompt_path="")  # no training prompts
        model = SALMONN.from_config(model_options, device=device, dtype=half_dtype(device)).eval()
        return cls(
            model,
            log_mel,
            prompts,
            options.prompt_template,
            config.generate,
            device,
            long_audio=config.datasets.long_audio,  # type: ignore[arg-type]
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that have a prompt of their own."""
        return self._prompts.tasks

    def answer(self, audio_path: str | Path, prompt: str = "", task: str = DEFAULT_TASK) -> str:
        """The model's answer about one file, special tokens removed.

        Args:
            audio_path: any audio file; `~` is the home folder.
            prompt: free text. Without `<SpeechHere>` the audio comes before it. Empty: the task's.
            task: a name out of `tasks`; only read when there is no prompt.

        Raises:
            UserError: a file that cannot be used, an unknown task, a prompt that holds
                `<SpeechHere>` more than once.
        """
        full_prompt = apply_template(self._template, build_prompt(self._prompts, prompt, task))
        split_at_marker(full_prompt)
        waveform = load_clip(audio_path, self._long_audio)
        if waveform.was_truncated:
            lengths = MAX_SECONDS, waveform.source_seconds
            logger.warning("%s: only the first %.0f s of %.1f s are used", audio_path, *lengths)
        raw_wav = torch.from_numpy(waveform.samples)[None]  # (1, T)
        samples = {
            "spectrogram": self._log_mel(waveform.samples)[None],  # (1, M, 3000)
            "raw_wav": raw_wav,
            "padding_mask": torch.zeros_like(raw_wav, dtype=torch.bool),
        }
        (text,) = self._model.generate(
            move_to(samples, self._device), self._generate_cfg, prompts=[full_prompt]
        )
        return text


def build_prompt(book: PromptBook, prompt: str, task: str) -> str:
    """The prompt around the audio, template not yet applied: the user's, or else the task's.

    Raises:
        UserError: there is no prompt, and no such task or one that needs a question.
    """
    prompt = prompt.strip()
    if not prompt:
        sentence = book.choices(task)[0]
        if PLACEHOLDER in sentence:
            raise UserError(
                f"task {task!r} asks a question of your own ({sentence!r}): give it as the prompt"
            )
        return sentence
    return prompt if SPEECH_MARKER in prompt else AUDIO_BEFORE_PROMPT + prompt


def load_clip(audio_path: str | Path, long_audio: LongAudioPolicy = "truncate") -> Waveform:
    """Load the audio file that a user named, at most 30 s of it.

    Raises:
        UserError: no path, nothing there, or it cannot be used as audio.
    """
    if not str(audio_path).strip():
        raise UserError("no audio file given: name one, such as a.wav")
    path = Path(os.path.expanduser(audio_path))
    try:
        if not path.is_file():
            found = "it is a folder" if path.is_dir() else "no such file"
            where = "" if path.is_absolute() else f" (current directory: {Path.cwd()})"
            raise UserError(f"audio file {path}: {found}; check the path{where}")
        return load_waveform(path, long_audio=long_audio)
    except OSError as error:  # such as a name that is too long, or a folder that is locked
        raise UserError(f"audio file {path}: {error.strerror or error}; check the path") from error
