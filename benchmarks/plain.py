"""The plain way: SALMONN as one writes it down first, with transformers, peft and librosa.

Whisper reads 30 s, no part runs without autograd, the LLM computes logits at every position, the
adapter stays unmerged, answers come from `generate`, files are read in float64. BEATs, filterbank,
Q-Former and splicing are this repository's own, as there is no plainer way to have them.

In: the random stack of `midsize.py`. Out: a model with SALMONN's parameter names, timed answers,
features of a file.

Letters: B clips, M mel bins, T samples, L = 88 audio tokens, H LLM width.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import peft
import soundfile
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.generation.streamers import BaseStreamer

from audiolm.audio.features import kaldi_fbank
from audiolm.config import QFormerConfig
from audiolm.models.beats import BEATs
from audiolm.models.qformer import build_qformer, query_frames
from audiolm.models.splice import LlmInputs, splice, tokenize_answer

NUM_FRAMES = 1500  # 30 s at 50 Hz
WINDOW_FRAMES = 17


class PlainModel(nn.Module):
    """The joint model with LoRA (r 8, alpha 32, q and v) on a frozen LLM and frozen encoders."""

    def __init__(
        self,
        whisper_path: Path,
        beats_path: Path,
        llama_path: Path,
        qformer: QFormerConfig,
        attention: str,
    ) -> None:
        super().__init__()
        whisper = WhisperModel.from_pretrained(str(whisper_path), attn_implementation=attention)
        self.speech_encoder = whisper.encoder.requires_grad_(False)
        self.beats = BEATs.from_checkpoint(beats_path).requires_grad_(False)
        self.llama_tokenizer = AutoTokenizer.from_pretrained(llama_path)
        self.llama_tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        llm = AutoModelForCausalLM.from_pretrained(llama_path)
        llm.resize_token_embeddings(len(self.llama_tokenizer), mean_resizing=False)
        lora = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=8,
            lora_alpha=32,
            lora_dropout=0.1,
            target_modules=["q_proj", "v_proj"],
        )
        self.llama_model = peft.get_peft_model(llm, lora)
        widths = whisper.config.d_model, self.beats.embed_dim
        self.ln_speech, self.ln_audio = (nn.LayerNorm(width) for width in widths)
        self.speech_Qformer = build_qformer(**vars(qformer), frame_width=sum(widths))
        self.speech_query_tokens = nn.Parameter(0.02 * torch.randn(1, 1, qformer.hidden_size))
        self.speech_llama_proj = nn.Linear(qformer.hidden_size, llm.config.hidden_size)
        self.eval()

    def encode_speech(
        self, spectrogram: torch.Tensor, raw_wav: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, M, 3000) and (B, T), clips of one length -> (B, L, H) and its mask (B, L)."""
        speech = self.ln_speech(self.speech_encoder(spectrogram).last_hidden_state)
        audio = self.ln_audio(self.beats(*kaldi_fbank(raw_wav))[0])
        audio = nn.functional.pad(audio, (0, 0, 0, NUM_FRAMES - audio.shape[1]))
        frames = torch.cat([speech, audio], dim=-1)  # (B, 1500, W)
        windows = frames.unfold(1, WINDOW_FRAMES, WINDOW_FRAMES)  # (B, L, W, 17)
        windows = windows.flatten(0, 1).transpose(1, 2)
        tokens = query_frames(self.speech_Qformer, self.speech_query_tokens, windows)
        embeds = self.speech_llama_proj(tokens).unflatten(0, (len(frames), -1)).flatten(1, 2)
        return embeds, torch.ones(embeds.shape[:2], dtype=torch.long)

    def prepare(
        self, embeds: torch.Tensor, mask: torch.Tensor, prompts: Sequence[str], answers: Any = None
    ) -> LlmInputs:
        """Audio (B, L, H), prompts and answers (B lists of ids, or None) -> the LLM's rows."""
        embeddings = self.llama_model.get_input_embeddings()
        side = "left" if answers is None else "right"
        tokenizer = self.llama_tokenizer
        return splice(embeds, mask, prompts, answers, tokenizer, embeddings, padding_side=side)

    def forward(
        self, samples: Mapping[str, Any], verbose: bool, prompts: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Loss of `samples["text"]`, each followed by the tokenizer's end of text."""
        tokenizer = self.llama_tokenizer
        end_text = str(tokenizer.eos_token)
        answers = [tokenize_answer(tokenizer, text, end_text, 300) for text in samples["text"]]
        audio = self.encode_speech(samples["spectrogram"], samples["raw_wav"])
        output = self.llama_model(**self.prepare(*audio, prompts, answers).as_arguments())
        return {"loss": output.loss}


class TokenTimes(BaseStreamer):
    """When `generate` hands out each token; its first call hands out the (empty) prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate` for every token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Called by `generate` when it is done."""


def time_plain_answer(
    model: PlainModel,
    extractor: WhisperFeatureExtractor,
    waveform: np.ndarray,
    prompt: str,
    num_new_tokens: int,
) -> dict[str, float]:
    """Answer one clip (T,) greedily; seconds of each part, to the first token, per later token."""
    tokens = TokenTimes()
    started = time.perf_counter()
    spectrogram = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_features
    prepared = time.perf_counter()
    audio = model.encode_speech(spectrogram, torch.from_numpy(waveform)[None])
    encoded = time.perf_counter()
    inputs = model.prepare(*audio, [prompt])
    generation = GenerationConfig(
        max_new_tokens=num_new_tokens,
        min_new_tokens=num_new_tokens,
        do_sample=False,
        eos_token_id=model.llama_tokenizer.eos_token_id,
        pad_token_id=model.llama_tokenizer.pad_token_id,
    )
    model.llama_model.generate(
        inputs_embeds=inputs.inputs_embeds,
        attention_mask=inputs.attention_mask,
        generation_config=generation,
        streamer=tokens,
    )
    first, last = tokens.times[-num_new_tokens], tokens.times[-1]
    return {
        "log_mel_seconds": prepared - started,
        "encode_seconds": encoded - prepared,
        "ttft_seconds": first - started,
        "tpot_seconds": (last - first) / (num_new_tokens - 1),
    }


def load_plain_features(
    path: Path, extractor: WhisperFeatureExtractor
) -> tuple[np.ndarray, torch.Tensor]:
    """A mono file -> waveform (T,) float64 at 16 kHz and log-mel (M, 3000)."""
    waveform, rate_hz = soundfile.read(path)
    if rate_hz != 16_000:
        waveform = librosa.resample(waveform, orig_sr=rate_hz, target_sr=16_000)
    features = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
    return waveform, features.input_features[0]
