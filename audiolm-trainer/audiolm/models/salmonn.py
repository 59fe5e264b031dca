"""SALMONN: Whisper and BEATs -> window-level Q-Former -> an adapted LLM.

Letters: B clips, M mel bins, T encoder frames (50 per second), W frame width (Whisper + BEATs),
N windows of K frames in a batch, L audio tokens, H LLM width, V vocabulary.
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm.audio.features import kaldi_fbank
from audiolm.errors import UserError
from audiolm.models.answer_loss import compute_answer_loss
from audiolm.models.audio_tokens import (
    AudioTokenOptions,
    count_samples,
    first_rows,
    fit_length,
    plan_frames,
)
from audiolm.models.beats import BEATs
from audiolm.models.decode import generate_texts
from audiolm.models.llm import set_adapter_training
from audiolm.models.qformer import pad_windows, query_frames
from audiolm.models.splice import LlmInputs, splice, tokenize_answer
from audiolm.models.whisper import encode_padded, encode_trimmed
from audiolm.prompts import PromptBook, draw_prompts


@dataclass(frozen=True)
class TextOptions:
    """Prompts and answers. Names and meaning: `audiolm.config.ModelConfig`."""

    max_answer_tokens: int = 300
    end_text: str = ""
    prompt_template: str = "USER: {}\nASSISTANT:"
    draws_per_sample: bool = True


class SALMONN(nn.Module):
    """The joint model. Attribute names are the checkpoint's (see `models/checkpoint.py`).

    `frozen` names attributes that stay in eval mode and get no gradients; of a frozen
    `llama_model` the adapter goes on training.
    """

    def __init__(
        self,
        speech_encoder: WhisperEncoder,
        beats: BEATs | None,
        speech_Qformer: nn.Module | None,
        speech_query_tokens: nn.Parameter | None,
        speech_llama_proj: nn.Linear,
        llama_model: nn.Module | None,
        llama_tokenizer: PreTrainedTokenizerBase,
        *,
        audio_options: AudioTokenOptions,
        text_options: TextOptions,
        prompts: PromptBook | None = None,
        frozen: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.audio_options = audio_options
        self.text_options = text_options
        self.prompts = prompts
        self.prompt_random = random.Random(0)
        self.frozen = frozen
        self.llama_tokenizer = llama_tokenizer
        self.speech_query_tokens = speech_query_tokens
        self.llama_model = llama_model
        self.speech_encoder = speech_encoder
        self.ln_speech = nn.LayerNorm(speech_encoder.config.d_model)
        self.beats = beats
        self.ln_audio = nn.LayerNorm(beats.embed_dim) if beats is not None else None
        self.speech_Qformer = speech_Qformer
        self.speech_llama_proj = speech_llama_proj
        for name in frozen - {"llama_model"}:
            if getattr(self, name) is not None:
                getattr(self, name).requires_grad_(False)
        self.eval()

    @classmethod
    def from_config(cls, config: Any, **arguments: Any) -> "SALMONN":
        """Build from the `model` section; see `audiolm.models.build.build_salmonn`."""
        from audiolm.models.build import build_salmonn

        return build_salmonn(config, **arguments)

    def train(self, mode: bool = True) -> "SALMONN":
        """Like `nn.Module.train`, but frozen parts stay in eval mode."""
        super().train(mode)
        for name in self.frozen:
            part = getattr(self, name)
            if isinstance(part, nn.Module):
                set_adapter_training(part, mode) if name == "llama_model" else part.eval()
        return self

    @property
    def llm(self) -> Any:
        """The LLM with its adapter; a `UserError` when the model was built without one."""
        if self.llama_model is None:
            message = "model.only_preprocessor: true builds no LLM; set it to false to use one"
            raise UserError(message)
        return self.llama_model

    def encode_speech(
        self,
        spectrogram: torch.Tensor,
        raw_wav: torch.Tensor | None = None,
        audio_padding_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Audio -> LLM-ready embeddings. A clip's result does not depend on the others.

        Args:
            spectrogram: (B, M, 3000) log-mel.
            raw_wav: (B, samples) at 16 kHz; BEATs needs it.
            audio_padding_mask: (B, samples), True = padding; None: no padding.

        Returns:
            Embeddings (B, L, H) and attention mask (B, L), 1 = real.
        """
        config = self.speech_encoder.config
        num_samples = count_samples(spectrogram, raw_wav, audio_padding_mask, config.num_mel_bins)
        plan = plan_frames(num_samples, config.max_source_positions, self.audio_options)
        length = int(plan.num_used.max())
        frames = fit_length(self._encode_whisper(spectrogram, plan.num_encoded), length)
        if self.beats is not None:
            audio = fit_length(self._encode_beats(self.beats, raw_wav, num_samples), length)
            frames = torch.cat([frames, audio], dim=-1)  # (B, T, W)

        if self.audio_options.is_window_level:
            frames = self.audio_options.windows.cut(frames, plan.num_windows)  # (N, K, W)
            mask = None
        else:
            mask = first_rows(plan.num_used, length).long()
        if self.speech_Qformer is None:
            tokens = frames.flatten(1)[:, None]  # (N, 1, K * W)
        else:
            queries = self.speech_query_tokens
            tokens = query_frames(self.speech_Qformer, queries, frames, mask)
        return pad_windows(self.speech_llama_proj(tokens), plan.num_windows)

    def _encode_whisper(self, spectrogram: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        with self._gradients("speech_encoder"):
            if self.audio_options.is_trimmed:
                hidden = encode_trimmed(self.speech_encoder, spectrogram, num_frames)
            else:
                hidden = encode_padded(self.speech_encoder, spectrogram)
        hidden = self.ln_speech(hidden.to(self.ln_speech.weight.dtype))
        return hidden * first_rows(num_frames, hidden.shape[1])[:, :, None]

    def _encode_beats(
        self, beats: BEATs, raw_wav: torch.Tensor | None, num_samples: torch.Tensor
    ) -> torch.Tensor:
        if raw_wav is None:
            raise ValueError("encode_speech needs raw_wav: this model has a BEATs encoder")
        assert self.ln_audio is not None
        with self._gradients("beats"):
            fbank, num_fbank_frames = kaldi_fbank(raw_wav, num_samples)
            hidden, num_patches = beats(fbank, num_fbank_frames)
        hidden = self.ln_audio(hidden.to(self.ln_audio.weight.dtype))
        return hidden * first_rows(num_patches, hidden.shape[1])[:, :, None]

    def _gradients(self, part: str) -> AbstractContextManager[Any]:
        return torch.no_grad() if part in self.frozen else nullcontext()

    def prepare(
        self,
        samples: Mapping[str, Any],
        prompts: Sequence[str],
        answers: Sequence[Sequence[int]] | None = None,
    ) -> LlmInputs:
        """Encode the audio and build the LLM's rows: padded left without answers, else right."""
        audio_embeds, audio_mask = self.encode_speech(
            samples["spectrogram"], samples.get("raw_wav"), samples.get("padding_mask")
        )
        return splice(
            audio_embeds,
            audio_mask,
            prompts,
            answers,
            self.llama_tokenizer,
            self.llm.get_input_embeddings(),
            padding_side="left" if answers is None else "right",
        )

    def tokenize_answer(self, text: str) -> list[int]:
        """Token ids of an answer with its end symbol, at most `max_txt_len`."""
        options = self.text_options
        return tokenize_answer(
            self.llama_tokenizer, text, options.end_text, options.max_answer_tokens
        )

    def forward(
        self,
        samples: Mapping[str, Any],
        verbose: bool = False,
        prompts: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Loss of the answers given audio and prompt, a mean over all answer tokens.

        Args:
            samples: spectrogram (B, M, 3000), raw_wav (B, samples), padding_mask (B, samples),
                and lists of B: text, task, Q.
            verbose: also count the answer tokens: `correct` and `total`.
            prompts: B templated prompts; None draws them by task.
        """
        if prompts is None:
            options = self.text_options
            prompts = draw_prompts(
                self.prompts,
                samples,
                options.prompt_template,
                self.prompt_random,
                per_sample=options.draws_per_sample,
            )
        answers = [self.tokenize_answer(text) for text in samples["text"]]
        inputs = self.prepare(samples, prompts, answers)
        result = compute_answer_loss(self.llm, inputs)
        if not verbose:
            return {"loss": result.loss}
        return {"loss": result.loss, "correct": result.correct, "total": result.total}

    @torch.no_grad()
    def generate(
        self,
        samples: Mapping[str, Any],
        generate_cfg: Any = None,
        prompts: Sequence[str] = (),
    ) -> list[str]:
        """Answers as plain text, special tokens removed, cut at the end symbol.

        `samples` is as in `forward` without text, `generate_cfg` the `generate` section (dataclass,
        OmegaConf node or dict), `prompts` B templated prompts that hold `<SpeechHere>` once.
        """
        inputs = self.prepare(samples, prompts)
        return generate_texts(
            self.llm, self.llama_tokenizer, inputs, generate_cfg, self.text_options.end_text
        )
