"""What memory depends on: the options that matter, and how long the clips and answers are.

In: the configuration, and its annotations and prompts where they are there already. Out: a
`Setting` and workloads, plain values that the plan's formulas take and its advice changes.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiolm.audio.loading import MAX_SECONDS
from audiolm.config import Config, GenerateConfig, ModelConfig, RunConfig
from audiolm.config_file import list_corpora
from audiolm.data.annotations import Clip, load_annotation
from audiolm.models.audio_tokens import AudioTokenOptions
from audiolm.models.build import (
    ENCODERS_CHECKPOINTED,
    LLM_CHECKPOINTED,
    mixes_layers,
    read_audio_options,
    resolve_adapter,
)
from audiolm.prompts import PromptBook, apply_template, fill_question, split_at_marker

TYPICAL_SECONDS = 10.0  # assumed where no annotation tells
TYPICAL_ANSWER_TOKENS = 40  # 10 s of English speech
ASSUMED_PROMPT = "<Speech><SpeechHere></Speech> Listen and write down what is said in the clip."
CHARACTERS_PER_TOKEN = 3.5  # where no tokenizer is at hand; English has about four
MAX_COUNTED_TEXTS = 200  # the longest of each file are tokenised


@dataclass(frozen=True)
class Setting:
    """Plain values of the options. `element_bytes`: of a frozen weight, and of what it computes."""

    is_gpu: bool
    element_bytes: int
    encoder_bytes: int  # of a number that a frozen encoder computes
    has_int8_encoders: bool
    is_mixed: bool  # what trains computes in half precision too (autocast)
    quantization: str
    is_double_quantised: bool  # nf4's maxima
    checkpointing: str  # none | llm | encoders | all
    optimiser: str  # adamw | adamw8bit
    has_feature_cache: bool
    num_clips: int  # per process and micro-batch, at most
    batch_seconds: float  # of padded audio in them; 0: any amount
    num_micro_batches: int
    num_eval_clips: int
    num_beams: int
    num_new_tokens: int
    is_eager: bool
    audio: AudioTokenOptions
    has_qformer: bool
    adapter: str
    has_adapter_dropout: bool
    qformer_dropout: bool
    frozen: frozenset[str]  # of whisper, beats, qformer, llm
    has_llm: bool = True
    is_sharded: bool = False  # the LLM's layers, over processes
    mixes_layers: bool = False  # of Whisper, with weights that train: nothing to cache

    @property
    def trained_bytes(self) -> int:
        """Bytes of a number that a trained module computes."""
        return 2 if self.is_mixed else 4

    def count_clips(self, seconds: float) -> int:
        """Clips of that length in a micro-batch."""
        if not self.batch_seconds:
            return self.num_clips
        return max(min(self.num_clips, int(self.batch_seconds / seconds)), 1)

    @property
    def is_llm_checkpointed(self) -> bool:
        return self.checkpointing in LLM_CHECKPOINTED

    @property
    def are_encoders_checkpointed(self) -> bool:
        return self.checkpointing in ENCODERS_CHECKPOINTED


@dataclass(frozen=True)
class Workload:
    """A batch's longest clip: seconds of audio, tokens of prompt (with <bos>) and of answer."""

    name: str
    seconds: float
    num_prompt_tokens: int
    num_answer_tokens: int
    why: str


def read_setting(config: Config, *, is_gpu: bool) -> Setting:
    """The options that memory depends on, for a GPU or for this machine's processor."""
    model, run = config.model, config.run
    element_bytes, is_mixed = _read_precision(run, is_gpu)
    options = model.adapter_options
    dropout = options.get("lora_dropout", options.get("vblora_dropout", model.lora_dropout))
    frozen = {
        "whisper": model.freeze_whisper,
        "beats": model.freeze_beats,
        "qformer": model.freeze_speech_QFormer,
        "llm": model.freeze_llm,
    }
    encoder_bytes = {"fp32": 4, "bf16": 2, "fp16": 2}.get(model.encoder_dtype, element_bytes)
    return Setting(
        is_gpu=is_gpu,
        element_bytes=element_bytes,
        encoder_bytes=encoder_bytes,
        has_int8_encoders=model.encoder_dtype == "int8",
        is_mixed=is_mixed,
        quantization="nf4" if model.low_resource else model.quantization,
        is_double_quantised=model.nf4_double_quant,
        checkpointing=model.gradient_checkpointing,
        optimiser=run.optims.optimiser,
        has_feature_cache=bool(config.datasets.feature_cache),
        num_clips=run.batch_size_train,
        batch_seconds=run.batch_seconds,
        num_micro_batches=run.accum_grad_iters,
        num_eval_clips=run.batch_size_eval,
        is_eager=model.attn_implementation == "eager",
        audio=read_audio_options(model),
        has_qformer=model.use_speech_Qformer,
        adapter=resolve_adapter(model),
        has_adapter_dropout=dropout > 0,
        qformer_dropout=model.qformer.dropout > 0 and not model.freeze_speech_QFormer,
        frozen=frozenset(name for name, is_frozen in frozen.items() if is_frozen),
        has_llm=not model.only_preprocessor,
        is_sharded=run.fsdp,
        mixes_layers=mixes_layers(model),
        **_read_decoding(config.generate),
    )


def read_option(section: Any, name: str, default: Any) -> Any:
    """An option that this version may not have yet."""
    return getattr(section, name, default)


def _read_precision(run: RunConfig, is_gpu: bool) -> tuple[int, bool]:
    precision = read_option(run, "precision", "auto")
    if precision != "auto":
        return (4, False) if precision == "fp32" else (2, True)
    return (2, run.amp) if is_gpu else (4, False)


def _read_decoding(generate: GenerateConfig) -> dict[str, int]:
    return {"num_beams": generate.num_beams, "num_new_tokens": generate.max_new_tokens}


class TokenCounter:
    """Tokens of a text: by the tokenizer, or estimated from its length without one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.is_exact = tokenizer is not None

    def count(self, text: str) -> int:
        """Tokens without beginning or end of text."""
        if self._tokenizer is None:
            return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
        return len(self._tokenizer(text, add_special_tokens=False).input_ids)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of the longest of some texts, longest text first."""
        longest = sorted(texts, key=len, reverse=True)[:MAX_COUNTED_TEXTS]
        return [self.count(text) for text in longest]


def read_workloads(config: Config, counter: TokenCounter) -> list[Workload]:
    """A typical batch and the longest one, by annotations and prompts, or as assumed without them.

    Raises:
        UserError: an annotation or prompt file that is there cannot be read.
    """
    model = config.model
    clips = _load_clips(config)
    prompt = 1 + _count_prompt(model, counter)
    source = "annotations" if clips else "assumed"
    seconds = sorted(min(clip.seconds, MAX_SECONDS) for clip in clips if clip.seconds is not None)
    end = 1 + (counter.count(model.end_sym) if model.end_sym else 0)
    texts = [text for clip in clips for text in clip.texts]
    longest_answer = max(counter.counts(texts), default=model.max_txt_len) + end
    typical_answer = TYPICAL_ANSWER_TOKENS
    if texts:
        middle = sorted(texts, key=len)[len(texts) // 2]
        typical_answer = counter.count(middle) + end
    # A clip whose length no one annotated may be as long as any.
    is_known = len(seconds) == len(clips) > 0
    longest_seconds = seconds[-1] if is_known else MAX_SECONDS
    typical_seconds = statistics.median(seconds) if seconds else TYPICAL_SECONDS
    limit = model.max_txt_len
    return [
        Workload("typical", typical_seconds, prompt, min(typical_answer, limit), source),
        Workload("longest", longest_seconds, prompt, min(longest_answer, limit), source),
    ]


def _load_clips(config: Config) -> list[Clip]:
    """Clips of the training annotations, when all of them are there."""
    paths = [path for path, _ in list_corpora(config.datasets.train_ann_path)]
    if not all(Path(path).is_file() for path in paths):
        return []
    return [clip for path in paths for clip in load_annotation(path)]


def _count_prompt(model: ModelConfig, counter: TokenCounter) -> int:
    """Tokens of the longest training prompt in its template, without the audio."""
    sentences = [ASSUMED_PROMPT]
    if model.prompt_path and Path(model.prompt_path).is_file():
        book = PromptBook.load(model.prompt_path)
        sentences = [sentence for task in book.tasks for sentence in book.choices(task)]
    prompts = [apply_template(model.prompt_template, fill_question(s, "")) for s in sentences]
    return max(sum(counter.count(part) for part in split_at_marker(prompt)) for prompt in prompts)
