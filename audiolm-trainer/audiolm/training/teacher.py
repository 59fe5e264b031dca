"""The teacher of `run.distil`: a frozen model that reads the student's clips, prompts and answers.

In: a micro-batch, the prompts and the answers' tokens as the student reads them. Out: its
`SoftTargets`. It uses its own encoders and connector; only the vocabulary must be the student's.

Letters: B clips, M mel bins, N answer tokens of a batch, V entries of the vocabulary, K of the
teacher's likeliest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from audiolm.audio.features import LogMel
from audiolm.config import Config, DistilConfig, ModelConfig
from audiolm.config_file import load_config
from audiolm.errors import UserError
from audiolm.models.answer_loss import compute_answer_logits
from audiolm.models.build import build_salmonn, read_encoder_sizes
from audiolm.models.device import move_to
from audiolm.models.distillation import SoftTargets, soften
from audiolm.models.llm import load_tokenizer
from audiolm.models.salmonn import SALMONN
from audiolm.training.engine import tell_everyone
from audiolm.training.precision import Precision
from audiolm.training.saving import keep_random_states
from audiolm.training.teacher_cache import Said, TeacherCache, name_answer, open_teacher_folder

REQUIRED_PATHS = ("model.llama_path", "model.whisper_path")


class Teacher:
    """Judges the student's answers. The model is built when it is first needed.

    Args:
        build: gives the model, on `device`.
        num_entries: V.
        log_mel: makes the teacher's spectrograms; None: the student's batches hold them.
        cache: of what was said before, or None.
    """

    def __init__(
        self,
        build: Callable[[], SALMONN],
        options: DistilConfig,
        device: torch.device,
        *,
        num_entries: int,
        log_mel: LogMel | None = None,
        cache: TeacherCache | None = None,
    ) -> None:
        self._build = build
        self._options = options
        self._device = device
        self._num_entries = num_entries
        self._log_mel = log_mel
        self._cache = cache
        self._model: SALMONN | None = None

    def load(self) -> SALMONN:
        """The model, frozen and in eval mode; nothing is drawn from the run's random states."""
        if self._model is None:
            with keep_random_states():
                self._model = self._build().eval().requires_grad_(False)
        return self._model

    def judge(
        self, samples: Mapping[str, Any], prompts: Sequence[str], student: SALMONN
    ) -> SoftTargets:
        """What the teacher says of a batch of `data.batches.collate` (B clips, on the CPU)."""
        answers = [student.tokenize_answer(text) for text in samples["text"]]
        log_probs, token_ids = self._recall(samples, prompts, answers)
        return SoftTargets(
            log_probs.to(self._device),
            None if token_ids is None else token_ids.to(self._device),
            self._num_entries,
            self._options.temperature,
            self._options.weight,
        )

    def _recall(
        self, samples: Mapping[str, Any], prompts: Sequence[str], answers: Sequence[list[int]]
    ) -> Said:
        """From the cache where it is there; the other rows are computed and stored."""
        if self._cache is None:
            return self._compute(samples, prompts, answers, range(len(answers)))
        keys = [
            name_answer(waveform[~is_padding], prompt, answer)
            for waveform, is_padding, prompt, answer in zip(
                samples["raw_wav"], samples["padding_mask"], prompts, answers, strict=True
            )
        ]
        said = [self._cache.read(k, len(ids)) for k, ids in zip(keys, answers, strict=True)]
        missing = [row for row, known in enumerate(said) if known is None]
        if missing:
            log_probs, token_ids = self._compute(samples, prompts, answers, missing)
            assert token_ids is not None  # open_teacher refuses a cache without top_k
            lengths = [len(answers[row]) for row in missing]
            pieces = zip(
                log_probs.cpu().split(lengths), token_ids.cpu().split(lengths), strict=True
            )
            for row, piece in zip(missing, pieces, strict=True):
                self._cache.write(keys[row], piece)
                said[row] = piece
        known = [row for row in said if row is not None]
        return torch.cat([row[0] for row in known]), torch.cat([row[1] for row in known])

    @torch.no_grad()
    def _compute(
        self,
        samples: Mapping[str, Any],
        prompts: Sequence[str],
        answers: Sequence[list[int]],
        rows: Sequence[int],
    ) -> Said:
        """Softened log-probabilities of some rows' answer tokens (N, V), or (N, K + 1) with their
        ids (N, K)."""
        model, chosen = self.load(), list(rows)
        batch = {n: samples[n][chosen] for n in ("spectrogram", "raw_wav", "padding_mask")}
        if self._log_mel is not None:
            clips = zip(batch["raw_wav"], batch["padding_mask"], strict=True)
            own = [self._log_mel(waveform[~is_padding]) for waveform, is_padding in clips]
            batch["spectrogram"] = torch.stack(own)  # (B, M, 3000)
        inputs = model.prepare(
            move_to(batch, self._device),
            [prompts[row] for row in chosen],
            [answers[row] for row in chosen],
        )
        logits = compute_answer_logits(model.llm, inputs).logits
        entries, top_k, token_ids = self._num_entries, self._options.top_k, None
        if top_k:
            token_ids = logits[:, :entries].topk(top_k).indices
        return soften(logits, entries, self._options.temperature, token_ids), token_ids


def open_teacher(
    config: Config,
    student: SALMONN,
    num_mel_bins: int,
    accelerator: Accelerator,
    precision: Precision,
) -> Teacher | None:
    """The teacher that `run.distil` names, or None. It is loaded at once, unless its cache already
    holds answers.

    `num_mel_bins` is of the student's training data.

    Raises:
        UserError: options that do not go together, another vocabulary, or weights that do not fit.
    """
    options = config.run.distil
    if not options.teacher:
        return None
    model = read_teacher(config)
    num_entries = count_shared_entries(config.run.distil, model, student.llama_tokenizer)
    masks = config.datasets.augment.specaugment
    teacher_bins = read_encoder_sizes(model).num_mel_bins
    is_masked = (
        masks.num_time_masks or masks.num_frequency_masks
    )  # the student's, not the teacher's
    cache = None
    if options.cache:
        folder = None
        if accelerator.is_main_process:
            folder = open_teacher_folder(model, options, precision)
        cache = TeacherCache(tell_everyone(folder), options.top_k)
    teacher = Teacher(
        lambda: build_salmonn(model, device=accelerator.device, dtype=precision.frozen_dtype),
        options,
        accelerator.device,
        num_entries=num_entries,
        log_mel=LogMel(teacher_bins) if is_masked or teacher_bins != num_mel_bins else None,
        cache=cache,
    )
    if cache is None or cache.is_empty:
        teacher.load()
    return teacher


def read_teacher(config: Config) -> ModelConfig:
    """The `model` section of `run.distil.teacher`, without prompts, which are the student's.

    Raises:
        UserError: options that do not go together, or a file that describes no trained model.
    """
    options = config.run.distil
    if config.model.objective == "ctc":
        raise UserError(
            "run.distil.teacher judges what the LLM answers, which model.objective: ctc does not "
            "train; leave it empty, or set model.objective: answer"
        )
    if config.datasets.feature_cache:
        raise UserError(
            "run.distil.teacher hears the clips, and datasets.feature_cache holds the student's "
            "encoder outputs instead; leave one of the two empty"
        )
    if options.cache and not options.top_k:
        raise UserError(
            "run.distil.cache stores the teacher's likeliest tokens, and run.distil.top_k is 0 "
            "(all of the vocabulary, 4 bytes each per token); set top_k, such as 32, or leave "
            "cache empty"
        )
    model = load_config(options.teacher, (), REQUIRED_PATHS).model
    lacks = {
        "model.only_preprocessor: true": model.only_preprocessor,
        "model.objective: ctc": model.objective == "ctc",
        "no model.ckpt": not model.ckpt,
    }
    for lack, is_so in lacks.items():
        if is_so:
            raise UserError(
                f"run.distil.teacher: {options.teacher} has {lack}; a teacher needs an LLM that "
                "answers and the trained weights of its Q-Former and projector"
            )
    return replace(
        model,
        token=model.token or config.model.token,
        prompt_path="",
        gradient_checkpointing="none",
    )


def count_shared_entries(
    options: DistilConfig, teacher: ModelConfig, student: PreTrainedTokenizerBase
) -> int:
    """Entries V of the vocabulary that teacher and student share.

    Raises:
        UserError: they do not share it, or `top_k` is not below it.
    """
    tokenizer = load_tokenizer(teacher.llama_path, teacher.token)
    check_same_vocabulary(student, tokenizer, options.teacher)
    num_entries = max(tokenizer.get_vocab().values()) + 1
    if options.top_k >= num_entries:
        raise UserError(
            f"run.distil.top_k: {options.top_k} is not below the vocabulary's {num_entries} "
            "entries; 0 compares all of them"
        )
    return num_entries


def check_same_vocabulary(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, path: str
) -> None:
    """Raise a `UserError` unless both number the same tokens alike and begin and end alike."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    differing = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    if differing:
        raise UserError(
            f"run.distil.teacher: {path} has another vocabulary ({len(theirs)} entries, the "
            f"student's {len(ours)}; {len(differing)} differ, such as {differing[0]!r}), so their "
            "probabilities cannot be compared; take a teacher with the student's tokenizer"
        )
    for name in ("bos_token", "eos_token"):
        own, other = getattr(student, name), getattr(teacher, name)
        if own != other:
            raise UserError(
                f"run.distil.teacher: {path} has the {name} {other!r}, the student {own!r}; take a "
                "teacher with the student's tokenizer"
            )
