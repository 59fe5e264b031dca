"""SALMONN: Whisper and BEATs -> window-level Q-Former -> an adapted LLM.

Letters: B clips, M mel bins, T encoder frames (50 per second), W frame width (Whisper + BEATs),
N windows of K frames in a batch, L audio tokens, H LLM width, V vocabulary.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm.errors import UserError
from audiolm.models.adapter import set_adapter_training
from audiolm.models.answer_loss import compute_answer_loss
from audiolm.models.audio_tokens import (
    AudioTokenOptions,
    FramePlan,
    count_real,
    count_samples,
    make_tokens,
    normalise,
    plan_frames,
)
from audiolm.models.beats import BEATs
from audiolm.models.ctc_loss import (
    CtcVocabulary,
    compress_tokens,
    compute_ctc_loss,
    tokenize_spoken,
)
from audiolm.models.decode import generate_texts
from audiolm.models.distillation import SoftTargets
from audiolm.models.encoding import EncodedAudio, EncoderSizes, encode_audio, read_encoded
from audiolm.models.qformer import pad_windows
from audiolm.models.splice import LlmInputs, splice, tokenize_answer
from audiolm.models.whisper import build_layer_weights
from audiolm.prompts import PromptBook, draw_prompts


@dataclass(frozen=True)
class TextOptions:
    """Prompts and answers. Names and meaning: `audiolm.config.ModelConfig`."""

    max_answer_tokens: int = 300
    end_text: str = ""
    prompt_template: str = "USER: {}\nASSISTANT:"
    draws_per_sample: bool = True
    objective: str = "answer"
    ctc_compression: bool = False


class SALMONN(nn.Module):
    """The joint model. Attribute names are the checkpoint's (see `models/checkpoint.py`).

    `frozen` names attributes that stay in eval mode and get no gradients; of a frozen
    `llama_model` the adapter goes on training. Without encoders, whose sizes `encoder_sizes` tells,
    it takes batches that carry their stored outputs.
    """

    def __init__(
        self,
        speech_encoder: WhisperEncoder | None,
        beats: BEATs | None,
        speech_Qformer: nn.Module | None,
        speech_query_tokens: nn.Parameter | None,
        speech_llama_proj: nn.Linear,
        llama_model: nn.Module | None,
        llama_tokenizer: PreTrainedTokenizerBase,
        *,
        encoder_sizes: EncoderSizes,
        audio_options: AudioTokenOptions,
        text_options: TextOptions,
        prompts: PromptBook | None = None,
        frozen: frozenset[str] = frozenset(),
        connector_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder_sizes = encoder_sizes
        self.audio_options = audio_options
        self.text_options = text_options
        self.prompts = prompts
        self.prompt_random = random.Random(0)
        self.ctc_vocabulary: CtcVocabulary | None = None  # set for the objective "ctc"
        self.frozen = frozen
        self.llama_tokenizer = llama_tokenizer
        self.speech_query_tokens = speech_query_tokens
        self.llama_model = llama_model
        self.speech_encoder: Any = speech_encoder  # a WhisperEncoder, where there is one
        self.ln_speech = nn.LayerNorm(encoder_sizes.speech_width)
        self.beats = beats
        self.speech_layer_weights = build_layer_weights(encoder_sizes.num_mixed)
        audio_width = encoder_sizes.audio_width
        self.ln_audio = nn.LayerNorm(audio_width) if audio_width else None
        self.speech_Qformer = speech_Qformer
        self.speech_llama_proj = speech_llama_proj
        self.connector_dropout = nn.Dropout(connector_dropout)
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
        num_mel_bins = self.encoder_sizes.num_mel_bins
        num_samples = count_samples(spectrogram, raw_wav, audio_padding_mask, num_mel_bins)
        plan = plan_frames(num_samples, self.encoder_sizes.max_frames, self.audio_options)
        encoded = encode_audio(
            self.speech_encoder,
            self.beats,
            spectrogram,
            raw_wav,
            num_samples,
            plan.num_encoded,
            is_trimmed=self.audio_options.is_trimmed,
            frozen=self.frozen,
            layer_weights=self.speech_layer_weights,
        )
        return self._embed_encoded(encoded, plan)

    def _embed_encoded(
        self, encoded: EncodedAudio, plan: FramePlan
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder outputs -> embeddings (B, L, H) and attention mask (B, L)."""
        length = int(plan.num_used.max())
        frames = normalise(self.ln_speech, encoded.speech, plan.num_encoded, length)
        if self.ln_audio is not None:
            audio = normalise(self.ln_audio, *encoded.second_stream, length)
            frames = torch.cat([frames, audio], dim=-1)  # (B, T, W)
        options, queries = self.audio_options, self.speech_query_tokens
        tokens = make_tokens(self.speech_Qformer, queries, frames, plan, options)
        tokens = self.speech_llama_proj(self.connector_dropout(tokens))
        audio = pad_windows(tokens, plan.num_windows)
        if not self.text_options.ctc_compression or self.text_options.objective == "ctc":
            return audio
        return compress_tokens(*audio, self.llm.get_input_embeddings(), self.llama_tokenizer)

    def embed_audio(self, samples: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Audio, or its stored encoder outputs -> embeddings (B, L, H) and mask (B, L)."""
        encoded = read_encoded(samples)
        if encoded is None:
            return self.encode_speech(
                samples["spectrogram"], samples.get("raw_wav"), samples.get("padding_mask")
            )
        num_samples = count_real(samples["padding_mask"])
        plan = plan_frames(num_samples, self.encoder_sizes.max_frames, self.audio_options)
        return self._embed_encoded(encoded, plan)

    def prepare(
        self,
        samples: Mapping[str, Any],
        prompts: Sequence[str],
        answers: Sequence[Sequence[int]] | None = None,
    ) -> LlmInputs:
        """Encode the audio and build the LLM's rows: padded left without answers, else right."""
        return splice(
            *self.embed_audio(samples),
            prompts,
            answers,
            self.llama_tokenizer,
            self.llm.get_input_embeddings(),
            padding_side="left" if answers is None else "right",
        )

    def tokenize_answer(self, text: str) -> list[int]:
        """Ids of answer and end symbol (for "ctc" of the words alone), at most `max_txt_len`."""
        options, length = self.text_options, self.text_options.max_answer_tokens
        if options.objective == "ctc":
            return tokenize_spoken(self.llama_tokenizer, text, length)
        return tokenize_answer(self.llama_tokenizer, text, options.end_text, length)

    def forward(
        self,
        samples: Mapping[str, Any],
        verbose: bool = False,
        prompts: Sequence[str] | None = None,
        soft_targets: SoftTargets | None = None,
    ) -> dict[str, Any]:
        """Loss of the answers given audio and prompt, a mean over all answer tokens; for the
        objective "ctc", of the answers as a reading of the audio tokens (see `ctc_loss`).

        Args:
            samples: spectrogram (B, M, 3000), raw_wav (B, samples), padding_mask (B, samples),
                and lists of B: text, task, Q.
            verbose: also give the other fields of `answer_loss.AnswerLoss`.
            prompts: B templated prompts; None draws them by task.
            soft_targets: a teacher's say on the answer tokens, to be mixed into the loss.
        """
        answers = [self.tokenize_answer(text) for text in samples["text"]]
        if self.text_options.objective == "ctc":
            table, vocabulary = self.llm.get_input_embeddings(), self.ctc_vocabulary
            result = compute_ctc_loss(*self.embed_audio(samples), answers, table, vocabulary)
        else:
            prompts = draw_training_prompts(self, samples) if prompts is None else prompts
            inputs = self.prepare(samples, prompts, answers)
            result = compute_answer_loss(self.llm, inputs, soft_targets)
        return vars(result).copy() if verbose else {"loss": result.loss}

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


def draw_training_prompts(model: SALMONN, samples: Mapping[str, Any]) -> list[str]:
    """Templated training prompts of a batch, as the model's options say."""
    options = model.text_options
    return draw_prompts(
        model.prompts,
        samples,
        options.prompt_template,
        model.prompt_random,
        per_sample=options.draws_per_sample,
    )
