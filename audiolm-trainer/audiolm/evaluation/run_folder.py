"""The files of one evaluation, from its first answer to its report.

    DATE_MODE.csv                  testset_id,text: one row per entry; written whole at the end
    DATE_MODE/run.json             what is being evaluated, from the start
    DATE_MODE/predictions.jsonl    one line per clip as it is decoded; sorted when all are there
    DATE_MODE/predictions.N.jsonl  the same of process N, while several decode
    DATE_MODE/result.json, result.md, report.html     at the end

In: where it should be. Out: a `RunFolder`; a folder without `result.json` was interrupted.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from audiolm.errors import UserError
from audiolm.evaluation.predictions import (
    FILE_NAME,
    Prediction,
    load_predictions,
    save_predictions,
)
from audiolm.evaluation.submission import RESULT_FOLDERS
from audiolm.json_file import load_json

CARD_NAME = "run.json"
RESULT_NAME = "result.json"
AUTO = "auto"
MAX_SHOWN_DIFFERENCES = 3


class RunFolder:
    """One evaluation's folder.

    Args:
        path: the folder, beside its CSV of the same stem.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def csv_path(self) -> Path:
        """The CSV beside the folder."""
        return self.path.with_name(f"{self.path.name}.csv")

    @property
    def predictions_path(self) -> Path:
        """Every clip's line, once decoding is over."""
        return self.path / FILE_NAME

    def part_path(self, rank: int, world_size: int) -> Path:
        """Where a process writes while it decodes."""
        return self.path / f"predictions.{rank}.jsonl" if world_size > 1 else self.predictions_path

    def create(self, card: dict[str, Any]) -> None:
        """Make the folder and write its card."""
        self.path.mkdir(parents=True)
        self.save_json(CARD_NAME, card)

    def save_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the folder."""
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        unfinished_path = self.path / f".{name}.unfinished"
        unfinished_path.write_text(text, encoding="utf-8", errors="backslashreplace")
        unfinished_path.replace(self.path / name)

    def gather(self) -> list[Prediction]:
        """All predictions there are, in one file in the order of the annotation."""
        paths = sorted(self.path.glob("predictions*.jsonl"))
        found: dict[int, Prediction] = {}
        for path in paths:
            for prediction in load_predictions(path, may_be_cut=True):
                found.setdefault(prediction.index, prediction)
        predictions = [found[index] for index in sorted(found)]
        if predictions:
            save_predictions(self.predictions_path, predictions)
        for path in paths:
            if path != self.predictions_path or not predictions:
                path.unlink()
        return predictions

    def remove_if_bare(self) -> bool:
        """Undo `create` where no clip was decoded; whether it was so."""
        if any(path.stat().st_size for path in self.path.glob("predictions*.jsonl")):
            return False
        shutil.rmtree(self.path)
        if not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()
        return True


def claim_folder(csv_path: Path, card: dict[str, Any]) -> RunFolder:
    """Make the folder that belongs to a CSV to come; a taken name gets a number (`..._2`)."""
    number = 1
    while True:
        stem = csv_path.stem if number == 1 else f"{csv_path.stem}_{number}"
        folder = RunFolder(csv_path.with_name(stem))
        if not folder.csv_path.exists():
            try:
                folder.create(card)
            except FileExistsError:
                pass  # another evaluation was faster
            else:
                return folder
        number += 1


def find_interrupted(wanted: str, mode: str, root: Path, settings: dict[str, Any]) -> RunFolder:
    """The folder that `--resume` means.

    Args:
        wanted: a folder, or `auto`: the newest interrupted one with these very settings.
        mode: of the evaluation.
        root: where the results' folders are.
        settings: see `card.describe_settings`.

    Raises:
        UserError: no such folder, it is complete, or its answers were made with other settings.
    """
    if wanted == AUTO:
        found = list_interrupted(mode, root, settings)
        if not found:
            raise UserError(
                f"--resume auto: no interrupted evaluation with these options in "
                f"{root / RESULT_FOLDERS[mode]}; leave --resume out to start one"
            )
        return found[-1]
    folder = RunFolder(Path(wanted))
    if not (folder.path / CARD_NAME).is_file():
        raise UserError(f"--resume {wanted}: no evaluation there (no {CARD_NAME})")
    if (folder.path / RESULT_NAME).exists():
        raise UserError(
            f"--resume {wanted}: that evaluation is complete; --rescore {wanted} scores it again"
        )
    differences = _find_differences(_load_settings(folder), settings)
    if differences:
        raise UserError(
            f"--resume {wanted}: its answers were made with other settings: "
            f"{'; '.join(differences)}; leave --resume out to start anew"
        )
    return folder


def list_interrupted(mode: str, root: Path, settings: dict[str, Any]) -> list[RunFolder]:
    """Interrupted evaluations with these very settings, oldest first."""
    cards = sorted((root / RESULT_FOLDERS[mode]).glob(f"*_{mode}*/{CARD_NAME}"))
    folders = [RunFolder(card.parent) for card in cards]
    return [
        folder
        for folder in folders
        if not (folder.path / RESULT_NAME).exists() and _load_settings(folder) == settings
    ]


def _load_settings(folder: RunFolder) -> Any:
    return load_json(folder.path / CARD_NAME, "evaluation").get("settings")


def _find_differences(saved: Any, settings: dict[str, Any]) -> list[str]:
    before = _flatten(saved) if isinstance(saved, dict) else {}
    now = _flatten(settings)
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    shown = [f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys]
    num_hidden = len(shown) - MAX_SHOWN_DIFFERENCES
    return shown[:MAX_SHOWN_DIFFERENCES] + ([f"{num_hidden} more"] if num_hidden > 0 else [])


def _flatten(content: dict[str, Any], section: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{section}.{name}" if section else name
        flat.update(_flatten(value, key) if isinstance(value, dict) else {key: value})
    return flat
