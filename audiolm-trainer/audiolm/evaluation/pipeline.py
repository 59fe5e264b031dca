"""From a configuration to predictions, a CSV and scores.

In: a `Config` and a mode. Out, in `submission_results/` or `valid_results/` under `root`, files of
one dated stem:

    .csv     testset_id,text: one row per annotation entry, in its order; written whole at the end
    .jsonl   one line per clip in the order of decoding, written batch by batch (`predictions.py`)
    .json    scores, counts, options and times; written last

Every entry is decoded with the evaluation prompt of its own task. `submission_*` modes need a
`testset_id` in every entry and only decode; `valid_*` modes need a `text` and score all entries.
Their rows carry the entries' testset_ids when all have one and all differ, else
`test{position:04d}`. A clip that `datasets.bad_audio: skip` leaves out gets an empty text, and is
scored as such. Everything that can be wrong with the input is looked at before the model is loaded.
"""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from audiolm.audio.features import LogMel
from audiolm.config import Config
from audiolm.config_file import plain_config
from audiolm.data.annotations import Clip, load_annotation
from audiolm.data.batches import AudioTally, build_loader, clip_seconds
from audiolm.data.dataset import AudioDataset
from audiolm.data.sampler import EvaluationBatchSampler
from audiolm.errors import UserError
from audiolm.evaluation.inputs import (
    build_prompts,
    check_audio_files,
    choose_row_ids,
    find_annotation,
    find_score_kind,
)
from audiolm.evaluation.predictions import Prediction, PredictionFile, predict
from audiolm.evaluation.scores import (
    ScoreReport,
    check_captions_scorable,
    score_captions,
    score_transcripts,
)
from audiolm.evaluation.submission import submission_path, write_submission
from audiolm.models.device import choose_device, half_dtype
from audiolm.models.salmonn import SALMONN

logger = logging.getLogger(__name__)

SCORERS: dict[str, Callable[..., ScoreReport]] = {"asr": score_transcripts, "aac": score_captions}
SCORED_AS = {"asr": "transcripts", "aac": "captions"}


@dataclass(frozen=True)
class EvaluationResult:
    """The files of an evaluation, and what it found.

    Attributes:
        csv_path: the predictions; `.jsonl` and `.json` are beside it.
        lines: scores, to show to the user; empty in submission modes.
        scores: the numbers in them by name; `wer` is a fraction, CIDEr-D goes from 0 to 10.
        num_clips: entries of the annotation, skipped ones included.
        num_skipped: entries whose audio could not be used.
        seconds: wall time of decoding, loading of audio included.
    """

    csv_path: Path
    lines: list[str]
    scores: dict[str, float]
    num_clips: int
    num_skipped: int
    seconds: float


def evaluate(
    config: Config, mode: str, *, root: str | Path = ".", config_path: str | Path | None = None
) -> EvaluationResult:
    """Decode the annotation of a mode, write the predictions, and score them in `valid_*` modes.

    Args:
        config: with its input paths resolved.
        mode: a key of `submission.MODE_FOLDERS`.
        root: where the results' folders are made.
        config_path: the file it came from, for the record.

    Raises:
        UserError: anything wrong with options, annotation, prompts, weights or audio.
    """
    csv_path = submission_path(mode, root)
    _, annotation_path = find_annotation(config, mode)
    is_scored = mode.startswith("valid_")
    clips = load_annotation(
        annotation_path, require_text=is_scored, require_testset_id=not is_scored
    )
    kind = mode.rpartition("_")[2]
    parts = {kind: clips} if is_scored else {}
    if is_scored:
        _warn_of_other_tasks(clips, kind)
    if mode == "valid_aac":
        check_captions_scorable([clip.texts for clip in clips])
    record = {"mode": mode, "config_path": _text_or_none(config_path)}
    return _run(config, annotation_path, clips, parts, csv_path, record)


def evaluate_test_set(
    config: Config, *, root: str | Path = ".", report: Callable[[str], None] = print
) -> EvaluationResult | None:
    """Decode `datasets.test_ann_path` whatever its tasks: `run.evaluate: True` of training.

    Tasks `asr` and `asr_*` are scored by WER, `audiocaption*` as captions, others not. The results
    go to `valid_results/`. Under torchrun the first process does it all; the others return None.

    Args:
        config: with its input paths resolved.
        root: where the results' folder is made.
        report: is given each line of the result.

    Raises:
        UserError: as `evaluate`.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        return None
    annotation_path = config.datasets.test_ann_path
    if not annotation_path:
        raise UserError("datasets.test_ann_path is not set; run.evaluate: true decodes it")
    clips = load_annotation(annotation_path, require_text=True)
    kinds = [find_score_kind(clip.task) for clip in clips]
    parts = {
        kind: [clip for clip, its_kind in zip(clips, kinds, strict=True) if its_kind == kind]
        for kind in SCORERS
        if kind in kinds
    }
    others = sorted({clip.task for clip in clips if not find_score_kind(clip.task)})
    if others:
        logger.warning("decoded but not scored: tasks %s", ", ".join(others))
    path = submission_path("valid_asr", root)  # dated, in the right folder
    csv_path = path.with_stem(path.stem.replace("valid_asr", "test_set"))
    record = {"mode": "test_set", "config_path": None}
    result = _run(config, annotation_path, clips, parts, csv_path, record)
    for line in [*result.lines, f"predictions: {result.csv_path}"]:
        report(line)
    return result


def _run(
    config: Config,
    annotation_path: str,
    clips: Sequence[Clip],
    parts: dict[str, list[Clip]],
    csv_path: Path,
    record: dict[str, Any],
) -> EvaluationResult:
    """Decode `clips`, write the three files; `parts` are the clips to score, by kind of score."""
    prompts = build_prompts(clips, config.model.test_prompt_path, config.model.prompt_template)
    check_audio_files(clips, config.datasets.prefix, skips_missing=_skips_bad(config))
    device = choose_device(config.run.device)
    loader = _build_loader(config, clips)
    model = _load_model(config, device)

    tally = AudioTally()
    predictions: list[Prediction] = []
    started = time.perf_counter()
    bar = tqdm(total=len(clips), desc="decoding", unit="clip")
    with bar, PredictionFile(csv_path, len(clips)) as file:
        for batch in predict(model, loader, clips, prompts, config.generate, device, tally):
            file.append(batch)
            predictions += batch
            bar.update(len(batch))
    seconds = time.perf_counter() - started
    _report_audio(tally)

    predictions.sort(key=lambda prediction: prediction.index)
    assert [prediction.index for prediction in predictions] == list(range(len(clips)))
    texts = [prediction.text for prediction in predictions]
    write_submission(file.csv_path, choose_row_ids(clips), texts)
    lines, scores = _score(parts, texts)
    if parts and tally.skipped:
        lines.append(f"{len(tally.skipped)} skipped clips are scored as empty answers")
    content = {
        **record,
        "annotation": annotation_path,
        "scores": scores,
        "lines": lines,
        "num_clips": len(clips),
        "num_skipped": len(tally.skipped),
        "num_truncated": tally.num_truncated,
        "skipped": [dataclasses.asdict(clip) for clip in tally.skipped],
        "device": str(device),
        "seconds": round(seconds, 3),
        "config": plain_config(config),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    file.csv_path.with_suffix(".json").write_text(text, encoding="utf-8")
    return EvaluationResult(file.csv_path, lines, scores, len(clips), len(tally.skipped), seconds)


def _build_loader(config: Config, clips: Sequence[Clip]) -> Any:
    datasets, run = config.datasets, config.run
    whisper_path = datasets.whisper_path or config.model.whisper_path
    dataset = AudioDataset(
        clips,
        datasets.prefix,
        LogMel.from_pretrained(whisper_path, token=config.model.token or None),
        bad_audio=datasets.bad_audio,  # type: ignore[arg-type]
        long_audio=datasets.long_audio,  # type: ignore[arg-type]
    )
    groups = datasets.group_by_length
    sampler = EvaluationBatchSampler(
        clip_seconds(clips, datasets.prefix) if groups else [0.0] * len(clips),
        run.batch_size_eval,
        group_by_length=groups,
    )
    return build_loader(dataset, sampler, run.num_workers)


def _load_model(config: Config, device: torch.device) -> SALMONN:
    if not config.model.ckpt:
        logger.warning("model.ckpt is not set: the connector between audio and LLM is untrained")
    torch.manual_seed(config.run.seed)  # of what no checkpoint fills, and of do_sample
    options = dataclasses.replace(config.model, prompt_path="")  # training prompts are not read
    return SALMONN.from_config(options, device=device, dtype=half_dtype(device)).eval()


def _skips_bad(config: Config) -> bool:
    return config.datasets.bad_audio == "skip"


def _score(
    parts: dict[str, list[Clip]], texts: Sequence[str]
) -> tuple[list[str], dict[str, float]]:
    lines: list[str] = []
    values: dict[str, float] = {}
    for kind, clips in parts.items():
        hypotheses = [texts[clip.index] for clip in clips]
        try:
            report = SCORERS[kind](hypotheses, [clip.texts for clip in clips])
        except UserError as error:  # the predictions are there; only this score cannot be
            report = ScoreReport([f"{SCORED_AS[kind]} are not scored: {error}"], {})
        lines += report.lines
        values.update(report.values)
    return lines, values


def _report_audio(tally: AudioTally) -> None:
    for clip in tally.skipped:
        logger.warning("skipped annotation[%d] (%s): %s", clip.index, clip.id, clip.reason)
    if tally.skipped or tally.num_truncated:
        logger.warning("%s", tally.describe())


def _warn_of_other_tasks(clips: Sequence[Clip], kind: str) -> None:
    others = sorted({clip.task for clip in clips if find_score_kind(clip.task) != kind})
    if others:
        tasks = ", ".join(others)
        logger.warning("all entries are scored as %s, also tasks %s", SCORED_AS[kind], tasks)


def _text_or_none(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
