"""Answer a prompt about one audio file: what the command line and the demo page share.

In: a configuration, an audio file, and a free prompt or a task's name. Out: the answer as text.

Letters: T samples at 16 kHz, M mel bins, L audio tokens, H LLM width.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiolm.audio.features import LogMel
from audiolm.audio.loading import MAX_SECONDS, LongAudioPolicy, Waveform
from audiolm.config import Config
from audiolm.config_file import load_config
from audiolm.evaluation.answer_stream import show_so_far, stream_new_ids
from audiolm.evaluation.questions import DEFAULT_TASK, REQUIRED_PATHS, build_prompt, load_clip
from audiolm.models.compiled_step import check_compilable
from audiolm.models.decode import read_generate_config
from audiolm.models.device import choose_device, inference_dtype, move_to
from audiolm.models.prefix_cache import PrefixCache
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import LlmInputs, splice
from audiolm.prompts import PromptBook, apply_template, split_at_marker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeardClip:
    """A clip as the LLM gets it, so that a second question about it costs no encoding.

    Attributes:
        audio_embeds, audio_mask: (1, L, H) and (1, L), see `SALMONN.encode_speech`.
        source_seconds: length of the file, before padding and cutting.
        encode_seconds: from the waveform to the embeddings.
    """

    audio_embeds: torch.Tensor
    audio_mask: torch.Tensor
    source_seconds: float
    encode_seconds: float

    @property
    def num_audio_tokens(self) -> int:
        """L, how many of the LLM's positions the clip takes."""
        return self.audio_embeds.shape[1]


@dataclass(frozen=True)
class Reply:
    """An answer, finished or as far as it has come.

    Attributes:
        text: special tokens removed, cut at the end symbol.
        num_tokens: new tokens so far, an end token included.
        ttft_seconds: from the question to the first new token; when the clip was given as a file,
            loading and encoding are in it. With beams, the time of the whole answer.
        seconds: from the question until now, without what the reader does between tokens.
        is_last: whether the answer is finished.
    """

    text: str
    num_tokens: int
    ttft_seconds: float
    seconds: float
    is_last: bool

    @property
    def tpot_seconds(self) -> float | None:
        """Time per new token after the first; None where there is none to measure."""
        elapsed = self.seconds - self.ttft_seconds
        return elapsed / (self.num_tokens - 1) if self.num_tokens > 1 and elapsed > 0 else None


class Answerer:
    """A model in memory that answers one question after the other.

    Args:
        model: in eval mode, on `device`; its weights stay as they are.
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
        self.model = model
        self.log_mel = log_mel
        self.prompts = prompts
        self.generate_cfg = read_generate_config(generate_cfg)
        self.device = device
        self._template = template
        self._prefixes = PrefixCache() if self.generate_cfg.prefix_cache else None
        self.long_audio: LongAudioPolicy = long_audio

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
        dtype = inference_dtype(config.run.precision, device)
        model = SALMONN.from_config(model_options, device=device, dtype=dtype).eval()
        check_compilable(model.llm, config.generate)
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
        return self.prompts.tasks

    def load(self, audio_path: str | Path) -> Waveform:
        """Load an audio file, at most 30 s of it; `~` is the home folder.

        Raises:
            UserError: a file that cannot be used.
        """
        waveform = load_clip(audio_path, self.long_audio)
        if waveform.was_truncated:
            lengths = MAX_SECONDS, waveform.source_seconds
            logger.warning("%s: only the first %.0f s of %.1f s are used", audio_path, *lengths)
        return waveform

    @torch.no_grad()
    def hear(self, waveform: Waveform) -> HeardClip:
        """Encode a clip, for any number of questions about it."""
        started = time.perf_counter()
        raw_wav = torch.from_numpy(waveform.samples)[None]  # (1, T)
        samples = {
            "spectrogram": self.log_mel(waveform.samples)[None],  # (1, M, 3000)
            "raw_wav": raw_wav,
            "padding_mask": torch.zeros_like(raw_wav, dtype=torch.bool),
        }
        embeds, mask = self.model.encode_speech(*move_to(samples, self.device).values())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elapsed = time.perf_counter() - started
        return HeardClip(embeds, mask, waveform.source_seconds, elapsed)

    def plan_prompt(self, prompt: str = "", task: str = DEFAULT_TASK) -> str:
        """The whole prompt that the model reads: the user's or the task's, in the template.

        Raises:
            UserError: an unknown task, or a prompt that holds `<SpeechHere>` more than once.
        """
        full_prompt = apply_template(self._template, build_prompt(self.prompts, prompt, task))
        split_at_marker(full_prompt)
        return full_prompt

    @torch.no_grad()
    def _splice(self, clip: HeardClip, full_prompt: str) -> LlmInputs:
        return splice(
            clip.audio_embeds,
            clip.audio_mask,
            [full_prompt],
            None,
            self.model.llama_tokenizer,
            self.model.llm.get_input_embeddings(),
            padding_side="left",
        )

    def reply(
        self, audio: str | Path | HeardClip, prompt: str = "", task: str = DEFAULT_TASK
    ) -> Iterator[Reply]:
        """The answer as it grows, token by token; the last one is whole.

        Closing the iterator stops the decoding. Beams (`generate.num_beams`) cannot be shown as
        they go: then the one reply is the last.

        Args:
            audio: any audio file, or what `hear` made of it.
            prompt: free text. Without `<SpeechHere>` the audio comes before it. Empty: the task's.
            task: a name out of `tasks`; only read when there is no prompt.

        Raises:
            UserError: a file that cannot be used, and what `plan_prompt` raises.
        """
        started = time.perf_counter()
        full_prompt = self.plan_prompt(prompt, task)
        clip = audio if isinstance(audio, HeardClip) else self.hear(self.load(audio))
        inputs = self._splice(clip, full_prompt)
        tokenizer = self.model.llama_tokenizer
        end_texts = (self.generate_cfg.end_sym, self.model.text_options.end_text)
        ids: list[int] = []
        seconds, ttft_seconds = time.perf_counter() - started, 0.0
        new = stream_new_ids(self.model, inputs, self.generate_cfg, self._prefixes)
        with contextlib.closing(new) as stream:
            while True:
                started = time.perf_counter()
                new_ids = next(stream, None)
                if new_ids is None:
                    break
                seconds += time.perf_counter() - started
                ids += new_ids
                ttft_seconds = ttft_seconds or seconds
                text = show_so_far(tokenizer, ids, end_texts, is_last=False)
                yield Reply(text, len(ids), ttft_seconds, seconds, is_last=False)
        text = show_so_far(tokenizer, ids, end_texts, is_last=True)
        yield Reply(text, len(ids), ttft_seconds, seconds, is_last=True)

    def ask(self, audio: str | Path | HeardClip, prompt: str = "", task: str = DEFAULT_TASK) -> str:
        """The model's whole answer about one clip; arguments and errors as in `reply`."""
        *_, last = self.reply(audio, prompt, task)
        return last.text

    def transcribe(self, audio: str | Path | HeardClip) -> str:
        """What is said in a clip: the answer to the `asr` task's prompt."""
        return self.ask(audio, task=DEFAULT_TASK)

    def stream(
        self, audio: str | Path | HeardClip, prompt: str = "", task: str = DEFAULT_TASK
    ) -> Iterator[str]:
        """The answer in pieces, as they come; joined they are what `ask` returns."""
        return grow(self.reply(audio, prompt, task))


def grow(replies: Iterable[Reply]) -> Iterator[str]:
    """Replies -> the pieces by which their text grows; joined they are the last one's text.

    Should a token change what was shown before it (a tokenizer may join letters), the whole text
    comes once more at the end, on a line of its own.
    """
    shown = text = ""
    for reply in replies:
        text = reply.text
        if text != shown and text.startswith(shown):
            yield text[len(shown) :]
            shown = text
    if text != shown:
        yield f"\n{text}"


def load_model(
    config_path: str | Path,
    checkpoint: str | Path = "",
    *,
    device: str = "",
    options: Sequence[str] = (),
) -> Answerer:
    """A trained model that answers questions about audio files.

    Args:
        config_path: YAML file, such as configs/salmonn_eval_config.yaml.
        checkpoint: trained weights; empty: those that the file names in `model.ckpt`.
        device: auto, cpu, cuda or cuda:N; empty: `run.device`.
        options: overrides, `["generate.num_beams=1"]`.

    Raises:
        UserError: anything wrong with the file, the options or the weights.
    """
    overrides = [*options]
    overrides += [f"model.ckpt={checkpoint}"] if checkpoint else []
    overrides += [f"run.device={device}"] if device else []
    config = load_config(config_path, overrides, REQUIRED_PATHS)
    return Answerer.from_config(config, choose_device(config.run.device))
