"""The one model in memory, and what it has heard lately; all visitors of the page share it.

In: a choice of the catalogue, audio files. Out: an `Answerer`, clips, encoded clips.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from audiolm.audio.features import LogMel
from audiolm.audio.loading import Waveform, audio_seconds
from audiolm.errors import UserError
from audiolm.evaluation.answering import Answerer, HeardClip
from audiolm.evaluation.demo_page.catalogue import ModelChoice
from audiolm.evaluation.questions import load_clip
from audiolm.models.device import choose_device

MAX_HEARD_CLIPS = 16  # encoded clips kept, the latest used ones


@dataclass(frozen=True)
class PageClip:
    """A clip that a visitor chose.

    Attributes:
        key: hash of its samples: what was heard of it is found again by it.
        name: of the file, for people.
        waveform: at most 30 s of it.
        reference: what is really in it, where that is known.
    """

    key: str
    name: str
    waveform: Waveform
    reference: str = ""


def take_clip(
    path: str | Path, max_seconds: float, name: str = "", reference: str = ""
) -> PageClip:
    """Load a visitor's file; the file is not needed any more after that.

    Raises:
        UserError: it is no audio, or longer than `max_seconds`. No folder is named in the message.
    """
    name = name or Path(path).name
    try:
        waveform = load_clip(path)
        seconds = max(waveform.source_seconds, audio_seconds(path))
    except UserError as error:
        raise UserError(str(error).replace(str(path), name)) from error
    if seconds > max_seconds:
        raise UserError(f"{name} is {seconds:.0f} s long; at most {max_seconds:g} s are taken")
    key = hashlib.sha256(waveform.samples.tobytes()).hexdigest()
    return PageClip(key, name, waveform, reference)


class ModelDesk:
    """Loads the chosen model, one at a time, and remembers encoded clips.

    Args:
        choices: see `catalogue.list_choices`.
    """

    def __init__(self, choices: Sequence[ModelChoice]) -> None:
        self.choices = {choice.name: choice for choice in choices}
        self._lock = threading.RLock()
        self._loaded: tuple[str, Answerer] | None = None
        self._heard: OrderedDict[tuple[str, str], HeardClip] = OrderedDict()

    @property
    def first(self) -> ModelChoice:
        """The page's default."""
        return next(iter(self.choices.values()))

    def take(self, name: str) -> Answerer:
        """The model of that name. Another one is dropped first: only one is ever in memory.

        Raises:
            UserError: no such name, or its files cannot be used together.
        """
        with self._lock:
            if self._loaded is not None and self._loaded[0] == name:
                return self._loaded[1]
            if name not in self.choices:
                raise UserError(f"no model {name!r}; there are: {', '.join(self.choices)}")
            config = self.choices[name].config
            device = choose_device(config.run.device)
            self._loaded = None
            self._heard.clear()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            answerer = Answerer.from_config(config, device)
            self._loaded = (name, answerer)
            return answerer

    def hear(self, name: str, clip: PageClip) -> tuple[HeardClip, bool]:
        """The clip as that model's LLM gets it, and whether it had been encoded before.

        Raises:
            UserError: as `take`.
        """
        with self._lock:
            answerer = self.take(name)
            key = (name, clip.key)
            if key in self._heard:
                self._heard.move_to_end(key)
                return self._heard[key], True
            self._heard[key] = heard = answerer.hear(clip.waveform)
            while len(self._heard) > MAX_HEARD_CLIPS:
                self._heard.popitem(last=False)
            return heard, False

    def log_mel(self, name: str) -> LogMel:
        """The log-mel of that model's Whisper.

        Raises:
            UserError: as `take`.
        """
        log_mel = self.take(name).log_mel
        assert isinstance(log_mel, LogMel)
        return log_mel
