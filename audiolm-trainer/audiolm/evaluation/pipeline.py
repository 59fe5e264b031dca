"""From a configuration to predictions, a CSV and scores: one way for every mode.

In: a `Config` and a mode. Out, in `submission_results/` or `valid_results/` under `root`: the files
listed in `run_folder.py`.

Every entry is decoded with the evaluation prompt of its own task. `submission_*` modes need a
`testset_id` in every entry and only decode; `valid_*` modes need a `text` and score all entries.
Their rows carry the entries' testset_ids when all have one and all differ, else
`test{position:04d}`. A clip that `datasets.bad_audio: skip` leaves out gets an empty text, and is
scored as such. Everything that can be wrong with the input is looked at before the model is loaded.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from audiolm.audio.features import LogMel
from audiolm.config import Config
from audiolm.data.annotations import Clip, load_annotation
from audiolm.data.batches import clip_seconds
from audiolm.evaluation.aac import measure_caption_texts
from audiolm.evaluation.card import describe_run, describe_settings
from audiolm.evaluation.decoding import Decoder
from audiolm.evaluation.inputs import (
    build_prompts,
    check_audio_files,
    choose_row_ids,
    find_annotation,
    select_tasks,
)
from audiolm.evaluation.outcome import EvaluationResult, ReportOptions, write_outcome
from audiolm.evaluation.predictions import Prediction, PredictionFile
from audiolm.evaluation.processes import Processes
from audiolm.evaluation.results import choose_groups
from audiolm.evaluation.run_folder import (
    RunFolder,
    claim_folder,
    find_interrupted,
    list_interrupted,
)
from audiolm.evaluation.submission import submission_path, write_submission
from audiolm.models.compiled_step import check_compilable
from audiolm.models.device import choose_device, inference_dtype
from audiolm.models.salmonn import SALMONN

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate.

    Attributes:
        mode: a key of `submission.MODE_FOLDERS`.
        tasks: entries of other tasks are left out; empty: all stay.
        root: where the results' folders are made.
        resume: an interrupted evaluation's folder, `auto`, or nothing.
        report: what the report holds.
    """

    mode: str
    tasks: Sequence[str] = ()
    root: str | Path = "."
    resume: str = ""
    report: ReportOptions = dataclasses.field(default_factory=ReportOptions)

    @property
    def is_scored(self) -> bool:
        """Whether answers are compared with references."""
        return not self.mode.startswith("submission_")


def evaluate(config: Config, evaluation: Evaluation) -> EvaluationResult | None:
    """Decode an annotation, write the predictions, and score them in `valid_*` modes.

    Under torchrun each clip is decoded by one of the processes; the first returns the result, the
    others None.

    Args:
        config: with its input paths resolved.

    Raises:
        UserError: anything wrong with options, annotation, prompts, weights or audio.
    """
    mode = evaluation.mode
    csv_path = submission_path(mode, evaluation.root)
    _, annotation_path = find_annotation(config, mode)
    clips = load_annotation(
        annotation_path,
        require_text=evaluation.is_scored,
        require_testset_id=not evaluation.is_scored,
    )
    clips = select_tasks(clips, evaluation.tasks, annotation_path)
    if evaluation.is_scored:
        _check_scorable(mode, clips)
    options = config.model
    prompts = build_prompts(
        clips, annotation_path, options.test_prompt_path, options.prompt_template
    )
    check_audio_files(
        clips, config.datasets.prefix, skips_missing=config.datasets.bad_audio == "skip"
    )

    processes = Processes.join()
    device = choose_device(processes.choose_device_name(config.run.device))
    settings = describe_settings(config, mode, annotation_path, prompts)
    settings["tasks"] = sorted(evaluation.tasks)
    card = describe_run(config, settings, annotation_path, len(clips))
    folder, done = _open_folder(evaluation, csv_path, card, processes)
    left = [clip for clip in clips if clip.index not in done]
    if left:
        by_index = {clip.index: prompt for clip, prompt in zip(clips, prompts, strict=True)}
        _decode(config, left, by_index, folder, device, processes)
    processes.wait()
    if not processes.is_first:
        return None

    predictions = folder.gather()
    assert [prediction.index for prediction in predictions] == [clip.index for clip in clips]
    _warn_of_audio(predictions)
    texts = [prediction.text for prediction in predictions]
    write_submission(folder.csv_path, choose_row_ids(clips), texts)
    return write_outcome(folder, predictions, card, evaluation.report, device, processes.world_size)


def evaluate_test_set(
    config: Config, *, root: str | Path = ".", report: Callable[[str], None] = print
) -> EvaluationResult | None:
    """Decode `datasets.test_ann_path` whatever its tasks: `run.evaluate: True` of training.

    Each task is scored in its own way; tasks that have no score are decoded alone. The results go
    to `valid_results/`.

    Args:
        config: with its input paths resolved.
        root: where the results' folder is made.
        report: is given each line of the result.

    Raises:
        UserError: as `evaluate`.
    """
    result = evaluate(config, Evaluation("test_set", root=root))
    if result is not None:
        for line in [*result.lines, f"predictions: {result.csv_path}"]:
            report(line)
    return result


def _check_scorable(mode: str, clips: Sequence[Clip]) -> None:
    """Refuse what `valid_aac` cannot score; tell which entries a mode takes for what."""
    if mode == "valid_aac":  # before any decoding
        measure_caption_texts([""] * len(clips), [clip.texts for clip in clips])
    tasks = [clip.task for clip in clips]
    by_mode, by_task = choose_groups(mode, tasks), choose_groups("", tasks)
    others = {
        task: group[1].name
        for task, group, own in zip(tasks, by_mode, by_task, strict=True)
        if group is not None and (own is None or own[1] is not group[1])
    }
    for kind in sorted(set(others.values())):
        named = ", ".join(sorted(task for task, its_kind in others.items() if its_kind == kind))
        logger.warning(
            "entries of tasks %s are scored as %s too; --tasks goes by task", named, kind
        )


def _open_folder(
    evaluation: Evaluation, csv_path: Path, card: dict[str, Any], processes: Processes
) -> tuple[RunFolder, set[int]]:
    """The folder to write to, and the clips that are done: the same on all processes."""
    found: tuple[Path, set[int]] | None = None
    if processes.is_first:
        mode, root, settings = evaluation.mode, Path(evaluation.root), card["settings"]
        if evaluation.resume:
            folder = find_interrupted(evaluation.resume, mode, root, settings)
            done = {prediction.index for prediction in folder.gather()}
            logger.warning(
                "resuming %s: %d of %d clips are there", folder.path, len(done), card["num_clips"]
            )
        else:
            interrupted = list_interrupted(mode, root, settings)
            if interrupted:
                logger.warning(
                    "an evaluation with these options was interrupted: %s; --resume auto goes on "
                    "with it",
                    interrupted[-1].path,
                )
            folder, done = claim_folder(csv_path, card), set()
        found = folder.path, done
    path, done = processes.share(found)
    return RunFolder(path), done


def _decode(
    config: Config,
    clips: Sequence[Clip],
    prompts: dict[int, str],
    folder: RunFolder,
    device: torch.device,
    processes: Processes,
) -> None:
    """Decode this process' share of `clips` into its file."""
    path = folder.part_path(processes.rank, processes.world_size)
    num_done = 0
    try:
        decoder = _build_decoder(config, device)
        seconds = clip_seconds(clips, config.datasets.prefix)
        order = sorted(range(len(clips)), key=lambda position: -(seconds[position] or math.inf))
        mine = order[processes.rank :: processes.world_size]
        if not mine:
            return
        my_clips, my_seconds = [clips[i] for i in mine], [seconds[i] for i in mine]
        progress = _Progress(my_seconds, processes)
        with progress.bar, PredictionFile(path) as file:
            for batch in decoder.predict(my_clips, my_seconds, prompts):
                file.append(batch)
                num_done += len(batch)
                progress.add(batch)
    except BaseException:
        if processes.world_size == 1 and not folder.remove_if_bare():
            logger.warning(
                "stopped early: %d of %d predictions are in %s; --resume auto goes on from there",
                num_done,
                len(clips),
                path,
            )
        raise


def _build_decoder(config: Config, device: torch.device) -> Decoder:
    if not config.model.ckpt:
        logger.warning("model.ckpt is not set: the connector between audio and LLM is untrained")
    whisper_path = config.datasets.whisper_path or config.model.whisper_path
    log_mel = LogMel.from_pretrained(whisper_path, token=config.model.token or None)
    torch.manual_seed(config.run.seed)  # of what no checkpoint fills
    options = dataclasses.replace(config.model, prompt_path="")  # training prompts are not read
    dtype = inference_dtype(config.run.precision, device)
    model = SALMONN.from_config(options, device=device, dtype=dtype).eval()
    check_compilable(model.llm, config.generate)
    return Decoder(
        model,
        log_mel,
        config.datasets,
        config.generate,
        device,
        config.run.batch_size_eval,
        config.run.num_workers,
        config.run.seed,
    )


class _Progress:
    """A bar that moves by seconds of audio, so that its rate is the real-time factor."""

    def __init__(self, seconds: Sequence[float], processes: Processes) -> None:
        self._seconds = seconds
        self._processes = processes
        self._num_clips = 0
        others = f" (1 of {processes.world_size} processes)" if processes.world_size > 1 else ""
        self.bar = tqdm(
            total=max(sum(seconds), 1e-9),
            desc=f"decoding{others}",
            disable=not processes.is_first,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix} [{elapsed}, {remaining} left]",
        )
        self.add([])

    def add(self, batch: Sequence[Prediction]) -> None:
        """Count decoded clips."""
        self._num_clips += len(batch)
        seconds = min(sum(p.audio_seconds for p in batch), self.bar.total - self.bar.n)
        elapsed = max(self.bar.format_dict["elapsed"], 1e-9)
        rate = self._processes.world_size * (self.bar.n + seconds) / elapsed
        told = f"{self._num_clips}/{len(self._seconds)} clips, RTFx {rate:.1f}"
        self.bar.set_postfix_str(told, refresh=False)
        self.bar.update(seconds)


def _warn_of_audio(predictions: Sequence[Prediction]) -> None:
    for prediction in predictions:
        if prediction.skipped is not None:
            logger.warning(
                "skipped annotation[%d] (%s): %s",
                prediction.index,
                prediction.id,
                prediction.skipped,
            )
    num_truncated = sum(prediction.was_truncated for prediction in predictions)
    if num_truncated:
        logger.warning("%d of %d clips cut to 30 s", num_truncated, len(predictions))
