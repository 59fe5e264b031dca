"""References for saved predictions, from an annotation they belong to.

In: predictions and an annotation. Out: the same predictions with its texts; a mismatch is told.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from audiolm.data.annotations import Clip, load_annotation
from audiolm.errors import UserError
from audiolm.evaluation.predictions import Prediction

MAX_SHOWN_IDS = 3


def add_references(predictions: Sequence[Prediction], annotation: str | Path) -> list[Prediction]:
    """`predictions` with the annotation's texts as references.

    Raises:
        UserError: a prediction of which the annotation has no entry of the same position, path and
            id; or entries without a prediction.
    """
    clips = {clip.index: clip for clip in load_annotation(annotation, require_text=True)}
    strangers = [p for p in predictions if not _belongs(p, clips.get(p.index))]
    if strangers:
        first = strangers[0]
        clip = clips.get(first.index)
        there = "nothing" if clip is None else f"{clip.path} ({clip.testset_id})"
        raise UserError(
            f"{len(strangers)} of {len(predictions)} predictions do not belong to {annotation}: "
            f"the first is of {first.id} ({first.testset_id}), where annotation[{first.index}] is "
            f"{there}; give the annotation they were made for"
        )
    tasks = {prediction.task for prediction in predictions}
    done = {prediction.index for prediction in predictions}
    missing = [c.path for c in clips.values() if c.index not in done and c.task in tasks]
    if missing:
        raise UserError(
            f"{len(missing)} entries of {annotation} have no prediction: "
            f"{', '.join(missing[:MAX_SHOWN_IDS])}; finish the evaluation (--resume) first"
        )
    return [replace(p, references=list(clips[p.index].texts)) for p in predictions]


def _belongs(prediction: Prediction, clip: Clip | None) -> bool:
    if clip is None:
        return False
    same_id = None in (prediction.testset_id, clip.testset_id) or (
        prediction.testset_id == clip.testset_id
    )
    return prediction.id == clip.path and same_id
