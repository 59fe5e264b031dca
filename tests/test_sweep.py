"""A sweep shows speed beside quality, goes round over its settings, and loses nothing."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import evaluate_efficiency_salmonn as script
from audiolm.config import Config
from audiolm.errors import UserError
from audiolm.evaluation import sweep as sweep_module
from audiolm.evaluation.pareto_chart import draw_pareto
from audiolm.evaluation.sweep import run_in_process, run_sweep_file
from audiolm.evaluation.sweep_pieces import measure_quality, measure_speed
from audiolm.evaluation.sweep_plan import load_plan
from audiolm.evaluation.sweep_table import (
    Figure,
    SweepRow,
    finish_rows,
    is_on_front,
    rank_rows,
    rank_values,
)
from tests.golden import GOLDEN_DIR, Golden

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
SETTINGS = {
    "exact": {},
    "light": {"model.audio_tokens": "length_aware", "model.whisper_input": "trimmed"},
}


def write_sweep_file(folder: Path, settings: Any = None, **changes: Any) -> Path:
    """A sweep over the golden model, as JSON, which is YAML."""
    size = Golden("dev", "lora").config.model.qformer
    content = {
        "base": str(GOLDEN_DIR / "dev" / "config_lora.yaml"),
        "options": {
            **{f"model.qformer.{name}": value for name, value in vars(size).items()},
            "datasets.test_ann_path": str(GOLDEN_DIR / "dev" / "annotation_asr.json"),
            "datasets.prefix": str(GOLDEN_DIR / "dev" / "audio"),
            "run.device": "cpu",
        },
        "rounds": 2,
        "num_it": 2,
        "num_warmup": 1,
        "new_tokens": 3,
        "seconds": [1],
        "settings": SETTINGS if settings is None else settings,
        **changes,
    }
    path = folder / "levers.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


class FakeRuns:
    """Makes pieces at once; notes in which order, and may fail like the real thing."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []
        self.stop_at = 10**6
        self.broken: dict[str, str] = {}

    def __call__(self, work: Any, config: Config, *arguments: Any) -> dict[str, Any]:
        name = "light" if config.model.audio_tokens == "length_aware" else "exact"
        if config.model.attn_implementation == "eager":
            name = "eager"
        if len(self.made) >= self.stop_at:
            raise KeyboardInterrupt
        if name in self.broken:
            raise UserError(self.broken[name])
        self.made.append((name, arguments[0] if work is measure_quality else "speed"))
        if work is measure_quality:
            metric = "wer" if arguments[0] == "asr" else "cider_d"
            value = {"exact": 0.10, "light": 0.12, "eager": 0.10}[name]
            return {"metric": metric, "value": value, "low": value - 0.01, "high": value + 0.01,
                    "num_clips": 4, "folder": "x", "notes": []}  # fmt: skip
        speed = {"exact": 2.0, "light": 1.0, "eager": 3.0}[name]
        iteration = {"kind": "measured", "ttft_seconds": speed, "tpot_seconds": speed / 10}
        warm = {"kind": "warmup", "ttft_seconds": 99.0, "tpot_seconds": 99.0}
        memory = {"gpu_peak_allocated_bytes": None, "process_peak_bytes": 100 * MIB * int(speed)}
        return {
            "cases": [{"iterations": [warm, iteration, iteration], "memory": memory}],
            "weights_bytes": {"total": 5 * MIB},
            "machine": {"device": "cpu", "device_name": "test", "num_threads": 1},
        }


def sweep(path: Path, runs: Any, out: Path | None = None, resume: str = "") -> Any:
    return run_sweep_file(path, [], str(out) if out else None, resume, lambda line: None, runs)


# --- order, resuming, failing ---------------------------------------------------------------


def test_each_round_goes_over_all_settings(tmp_path: Path) -> None:
    runs = FakeRuns()
    found = sweep(write_sweep_file(tmp_path), runs, tmp_path / "out")
    assert runs.made == [
        ("exact", "asr"), ("light", "asr"), ("exact", "aac"), ("light", "aac"),
        ("exact", "speed"), ("light", "speed"), ("exact", "speed"), ("light", "speed"),
    ]  # fmt: skip
    assert found.num_failed == 0
    for name in ("plan.json", "sweep.json", "sweep.md", "sweep.html", "pareto.svg"):
        assert (tmp_path / "out" / name).is_file()


def test_interrupted_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_sweep_file(tmp_path)
    runs = FakeRuns()
    runs.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        sweep(path, runs)
    runs.stop_at = 100
    found = sweep(path, runs, resume="auto")
    assert len(runs.made) == 8
    assert found.text.count("| light |") == 1
    again = FakeRuns()
    assert sweep(path, again, resume=str(found.table_path.parent)).text == found.text
    assert not again.made
    changed = write_sweep_file(tmp_path, rounds=3)
    with pytest.raises(UserError, match=r"compared something else \(file.rounds differ\)"):
        sweep(changed, again, resume="auto")
    with pytest.raises(UserError, match="already there"):
        sweep(changed, again, out=found.table_path.parent)


def test_no_speed_without_quality(tmp_path: Path) -> None:
    """A setting whose score cannot be had has no row, and the reason is told."""
    runs = FakeRuns()
    runs.broken["light"] = "model.quantization: nf4 needs bitsandbytes"
    found = sweep(write_sweep_file(tmp_path), runs, tmp_path / "out")
    assert found.num_failed == 1
    assert "| light |" not in found.text
    assert "Not measured: light: model.quantization: nf4 needs bitsandbytes" in found.text
    assert ("light", "speed") not in runs.made
    # a timing that came from elsewhere does not help it
    speed = tmp_path / "out" / "speed"
    for number in (1, 2):
        content = (speed / f"exact_round{number}.json").read_text()
        (speed / f"light_round{number}.json").write_text(content)
    again = sweep(write_sweep_file(tmp_path), runs, resume=str(tmp_path / "out"))
    assert "| light |" not in again.text
    runs.broken["exact"] = "no such device"
    with pytest.raises(UserError, match="no setting could be measured: exact: no such device"):
        sweep(write_sweep_file(tmp_path), runs, tmp_path / "other")


def test_killed_process_is_an_error_of_its_setting() -> None:
    with pytest.raises(UserError, match="its process was killed"):
        run_in_process(_end_abruptly)


def _end_abruptly() -> dict[str, Any]:
    import os

    os._exit(9)


# --- the real pieces ------------------------------------------------------------------------


def test_pieces_of_a_real_model(tmp_path: Path) -> None:
    plan = load_plan(write_sweep_file(tmp_path, quality=["asr"]))
    config = plan.configs["light"]
    score = measure_quality(config, "asr", tmp_path / "quality")
    saved = json.loads((Path(score["folder"]) / "result.json").read_text())
    figure = saved["groups"][0]["scores"]["wer"]
    assert score["metric"] == "wer"
    assert (score["value"], score["low"], score["high"]) == (
        figure["value"], figure["low"], figure["high"],
    )  # fmt: skip
    report = measure_speed(config, plan.file)
    (case,) = report["cases"]
    assert case["audio"]["seconds"] == 1.0
    assert case["lengths"]["num_audio_tokens"] == 3  # length-aware: the setting's own option
    assert [i["kind"] for i in case["iterations"]].count("measured") == 2


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"light": SETTINGS["light"]}
    path = write_sweep_file(tmp_path, settings, quality=["asr"], rounds=1)
    out = tmp_path / "out"
    assert script.main(["--sweep", str(path), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "light: asr score" in printed
    assert "| 1* | light |" in printed
    assert "Not scored, and not in the rank: aac." in printed
    assert len(list((out / "quality" / "light" / "valid_results").glob("*.csv"))) == 1


# --- rank, front, picture -------------------------------------------------------------------


def make_row(name: str, wer: float, cider: float, ttft: float, tpot: float, size: int) -> SweepRow:
    return SweepRow(
        name,
        {"asr": "wer", "aac": "cider_d"},
        {"asr": Figure(wer, wer - 0.01, wer + 0.01), "aac": Figure(cider)},
        Figure(ttft),
        Figure(tpot),
        size,
        MIB,
    )


ROWS = [
    make_row("a", 0.05, 3.0, 1.0, 0.02, 400 * MIB),
    make_row("b", 0.06, 2.0, 0.5, 0.03, 200 * MIB),
    make_row("c", 0.07, 1.0, 1.1, 0.03, 500 * MIB),  # worse than a in everything
]


def test_weighted_rank() -> None:
    # weights: WER 1, captions 1, memory 2, latency 2
    assert rank_rows(ROWS) == pytest.approx([(1 + 1 + 4 + 4) / 6, (2 + 2 + 2 + 2) / 6, 18 / 6])
    assert rank_values([3.0, 1.0, 1.0, 2.0]) == [4.0, 1.5, 1.5, 3.0]


def test_front() -> None:
    assert [row.is_on_front for row in finish_rows(ROWS)] == [True, True, False]
    assert is_on_front(0, [(1.0, 2.0), (1.0, 2.0)])  # equals do not beat each other


def test_table_names_what_it_ranks_by(tmp_path: Path) -> None:
    found = sweep(write_sweep_file(tmp_path), FakeRuns(), tmp_path / "out")
    lines = found.text.splitlines()
    assert "| WER | CIDEr-D |" in lines[0]
    light = next(line for line in lines if "| light |" in line)
    assert "12.00 % (11.00 to 13.00)" in light
    assert "| 1000.00 (1000.00 to 1000.00) |" in light  # warm-up does not count
    assert "SPIDEr could not be computed" in found.text
    assert "hidden task is not in it" in found.text


def test_picture_has_a_mark_per_setting_and_panel_and_better_is_up() -> None:
    rows = finish_rows(ROWS)
    svg = ElementTree.fromstring(draw_pareto(rows))
    space = "{http://www.w3.org/2000/svg}"
    panels = svg.findall(f"{space}g")
    assert len(panels) == 6  # two scores, three costs
    for place, panel in enumerate(panels):
        marks = panel.findall(f"{space}circle")
        assert len(marks) == 3
        heights = [float(mark.attrib["cy"]) for mark in marks]
        assert heights == sorted(heights)  # a is best in both scores: highest, smallest y
        fills = [mark.attrib["fill"] for mark in marks]
        assert [fill != "none" for fill in fills] == [True, True, False]
        if place % 3 == 0:
            x = [float(mark.attrib["cx"]) for mark in marks]
            assert x[1] < x[0] < x[2]


def test_one_bad_setting_does_not_hide_the_others() -> None:
    """Its mark stands at the lower end of the axis with an arrow; its value is in the legend."""
    rows = finish_rows([*ROWS[:2], make_row("d", 6.0, 0.0, 1.2, 0.04, 600 * MIB)])
    svg = ElementTree.fromstring(draw_pareto(rows))
    space = "{http://www.w3.org/2000/svg}"
    for panel in svg.findall(f"{space}g"):
        heights = [float(mark.attrib["cy"]) for mark in panel.findall(f"{space}circle")]
        assert heights[1] - heights[0] > 15  # of 170 pixels; not cut short, less than one
        assert heights[2] > heights[1]
        assert "3 ↓" in "".join(panel.itertext())
    assert "600.00 %" in "".join(svg.itertext())


def test_names_are_escaped() -> None:
    rows = finish_rows([make_row("a<b>", 0.1, 1.0, 1.0, 1.0, MIB)])
    texts = "".join(ElementTree.fromstring(draw_pareto(rows)).itertext())
    assert "a<b>: " in texts


# --- what users get wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "nowhere.yaml"}, "base: no file nowhere.yaml"),
        ({"sets": {}}, "unknown keys sets; known: base, settings"),
        ({"settings": {}}, "settings is missing"),
        ({"settings": ["a"]}, "settings: expected names with their overrides"),
        ({"settings": {"a b": {}}}, "'a b' is no name"),
        ({"settings": {"a": 3}}, "a: expected overrides like"),
        ({"settings": {"a": {"model.quantisation": "nf4"}}}, "setting a: .*did you mean"),
        ({"settings": {"a": {"model.ckpt": "no.pth"}}}, "setting a: model.ckpt: nothing at"),
        ({"quality": []}, "speed is not shown without what it costs"),
        ({"quality": ["qa"]}, "is not one or both of asr, aac"),
        ({"rounds": 0}, "rounds: 0: give a whole number, 1 or more"),
        ({"seconds": 5}, r"seconds: expected a list, like \[5\]"),
    ],
)
def test_bad_sweep_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_sweep_file(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        sweep(path, FakeRuns(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_sweep_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--sweep: no file at"):
        sweep(tmp_path / "no.yaml", FakeRuns())


SHIPPED = ("sweep.yaml", "nano_sweep.yaml", "nano_encoders_sweep.yaml", "real_sweep.yaml")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sweeps_know_their_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every override is an option with an allowed value; the files it needs may be missing here."""
    from audiolm.evaluation import sweep_plan

    monkeypatch.setattr(sweep_plan, "resolve_input_paths", lambda *arguments: None)
    plan = load_plan(ROOT / "configs" / name)
    assert len(plan.configs) >= 3


def test_overrides_are_for_all_settings_but_for_what_one_is_about(tmp_path: Path) -> None:
    path = write_sweep_file(tmp_path, {"a": {}, "b": {"model.ckpt": ""}}, quality=["asr"])
    ckpt = str(GOLDEN_DIR / "dev" / "lora" / "checkpoint_0.pth")
    configs = load_plan(path, [f"model.ckpt={ckpt}", "run.seed=7"]).configs
    assert (configs["a"].model.ckpt, configs["b"].model.ckpt) == (ckpt, "")
    assert configs["a"].run.seed == configs["b"].run.seed == 7


def test_waiting_process_stays_small() -> None:
    """The process that waits for the others needs neither torch nor transformers."""
    import subprocess
    import sys

    program = f"import sys, {sweep_module.__name__}; sys.exit('torch' in sys.modules)"
    folder = ROOT / "audiolm-trainer"
    assert subprocess.run([sys.executable, "-c", program], cwd=folder, check=False).returncode == 0


def test_hub_token_is_in_no_file(tmp_path: Path) -> None:
    secret = "hub" + "-secret-8"
    path = write_sweep_file(tmp_path, {"exact": {"model.token": secret}})
    out = tmp_path / "out"
    run_sweep_file(path, [f"model.token={secret}"], str(out), "", lambda line: None, FakeRuns())
    for file in out.rglob("*.*"):
        assert not re.search(secret, file.read_text(encoding="utf-8")), file
