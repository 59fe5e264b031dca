"""Run a sweep: every setting's quality, then its speed in rounds that go over all settings.

In: a sweep file. Out: a folder with the pieces, a table, a picture. Each piece (a setting's score
for a task, a setting's timing in a round) is made in a process of its own, so that neither memory
nor warmed-up state passes from one to the next, and is kept: an interrupted sweep goes on where it
stopped. In a round every setting is timed once, so that a machine that slows down slows down all.

    SWEEP_DATE/plan.json                        what is compared
    SWEEP_DATE/quality/SETTING_TASK.json        scores; the evaluation itself is beside them
    SWEEP_DATE/speed/SETTING_roundN.json        an efficiency report
    SWEEP_DATE/sweep.json, sweep.md, sweep.html, pareto.svg
"""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from audiolm.config import Config
from audiolm.errors import UserError
from audiolm.evaluation.sweep_pieces import measure_quality, measure_speed
from audiolm.evaluation.sweep_plan import SweepPlan, load_plan
from audiolm.evaluation.sweep_table import SweepFiles, write_sweep
from audiolm.json_file import load_json

RESULTS_FOLDER = Path("efficiency_results")
PLAN_NAME = "plan.json"
AUTO = "auto"

Piece = dict[str, Any]
Run = Callable[..., Piece]


def run_in_process(work: Callable[..., Piece], *arguments: Any) -> Piece:
    """`work(*arguments)` in a new process.

    Raises:
        UserError: as `work` does, or the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
        try:
            return executor.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise UserError("its process was killed; the machine may be out of memory") from error


@dataclass
class Sweep:
    """A sweep under way.

    Attributes:
        plan: what is compared.
        folder: where its pieces are.
        report: is told what happens, a line at a time.
        run: makes a piece, `run_in_process` but in tests.
    """

    plan: SweepPlan
    folder: Path
    report: Callable[[str], None]
    run: Run = run_in_process

    def __post_init__(self) -> None:
        self.failed: dict[str, str] = {}

    def measure(self) -> None:
        """Make all pieces that are not there; a setting that fails is left out from there on."""
        for task in self.plan.file.quality:
            for name, config in self.plan.configs.items():
                path = self.folder / "quality" / f"{name}_{task}.json"
                root = self.folder / "quality" / name
                self._make(path, name, f"{task} score", measure_quality, config, task, root)
        for number in range(1, self.plan.file.rounds + 1):
            for name, config in self.plan.configs.items():
                path = self.folder / "speed" / f"{name}_round{number}.json"
                what = f"round {number} of {self.plan.file.rounds}"
                self._make(path, name, what, measure_speed, config, self.plan.file)

    def load_pieces(self, name: str) -> tuple[dict[str, Piece], list[Piece]]:
        """A setting's scores by task, and its rounds; what is missing is left out."""
        file = self.plan.file
        scores = {task: self.folder / "quality" / f"{name}_{task}.json" for task in file.quality}
        rounds = [
            self.folder / "speed" / f"{name}_round{number}.json"
            for number in range(1, file.rounds + 1)
        ]
        return (
            {task: load_json(path, "score") for task, path in scores.items() if path.is_file()},
            [load_json(path, "round") for path in rounds if path.is_file()],
        )

    def _make(
        self, path: Path, name: str, what: str, work: Any, config: Config, *arguments: Any
    ) -> None:
        if path.is_file() or name in self.failed:
            return
        self.report(f"{name}: {what}")
        try:
            piece = self.run(work, config, *arguments)
        except UserError as error:
            self.failed[name] = str(error)
            self.report(f"{name}: not measured: {error}")
            return
        _write_json(piece, path)


def run_sweep_file(
    path: Path,
    overrides: list[str],
    out: str | None,
    resume: str,
    report: Callable[[str], None],
    run: Run = run_in_process,
) -> SweepFiles:
    """Make or finish a sweep and write what it found.

    Args:
        path: the sweep file.
        overrides: `a.b=c`, of every setting.
        out: its folder; None: a dated one in `efficiency_results/`.
        resume: the folder of an interrupted sweep, or `auto` for the newest of this file.
        report: is given each line of progress.
        run: see `Sweep`.

    Raises:
        UserError: a wrong file or folder; nothing at all could be measured.
    """
    plan = load_plan(path, overrides)
    folder = find_interrupted(plan, resume) if resume else make_folder(plan, out)
    sweep = Sweep(plan, folder, report, run)
    sweep.measure()
    return write_sweep(folder, plan, {n: sweep.load_pieces(n) for n in plan.configs}, sweep.failed)


def make_folder(plan: SweepPlan, out: str | None) -> Path:
    """A new folder with the plan in it.

    Raises:
        UserError: `out` is there already.
    """
    folder = Path(out) if out else RESULTS_FOLDER / f"{plan.name}_{datetime.now():%Y%m%d-%H%M%S}"
    if folder.exists():
        raise UserError(f"--out {folder}: already there; give another, or --resume {folder}")
    _write_json(plan.as_dict(), folder / PLAN_NAME)
    return folder


def find_interrupted(plan: SweepPlan, resume: str) -> Path:
    """The folder to go on in.

    Raises:
        UserError: no such sweep, or one that compared something else.
    """
    if resume == AUTO:
        found = sorted(RESULTS_FOLDER.glob(f"{plan.name}_*/{PLAN_NAME}"))
        if not found:
            raise UserError(f"--resume auto: no sweep {plan.name}_* in {RESULTS_FOLDER.absolute()}")
        folder = found[-1].parent
    else:
        folder = Path(resume)
        if not (folder / PLAN_NAME).is_file():
            raise UserError(f"--resume {resume}: no {PLAN_NAME} there")
    before, now = load_json(folder / PLAN_NAME, "plan"), plan.as_dict()
    if before != now:
        changed = [
            f"{part}.{key}"
            for part in ("file", "configs")
            for key in {*before[part], *now[part]}
            if before[part].get(key) != now[part].get(key)
        ]
        raise UserError(
            f"--resume {folder}: that sweep compared something else ({', '.join(sorted(changed))}"
            " differ); start a new one without --resume"
        )
    return folder


def _write_json(content: Piece, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    unfinished.replace(path)
