"""report.html of a run: what it shows, what it leaves out, and what it survives."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st
from selenium import webdriver
from selenium.webdriver.common.by import By

from audiolm.errors import UserError
from audiolm.evaluation.transcripts import measure_phones, measure_transcripts
from audiolm.training.report import samples as samples_module
from audiolm.training.report import write_report
from audiolm.training.report.axes import (
    LOG_SPAN,
    build_linear_axis,
    build_log_axis,
    build_step_axis,
    choose_tick_step,
    format_number,
)
from audiolm.training.report.charts import MAX_POINTS, Chart, Series, build_line, draw_chart
from audiolm.training.report.curves import LOWER_IS_BETTER, SCORES
from audiolm.training.report.history import read_history
from audiolm.training.report.page import format_duration
from audiolm.training.report.samples import MAX_CLIPS
from tests.browsing import list_page_errors

ROOT = Path(__file__).resolve().parent.parent
NASTY = '</script><script>alert("1")</script><img src=x onerror=alert(2)>&\'"'
CONFIG = "run:\n  exp_name: my_run\n  optims:\n    max_epoch: 4\n"
VOID_TAGS = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would find: text by element, figures by title, attributes by tag."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open_tags: list[str] = []
        self.text = ""
        self.figures: dict[str, dict[str, Any]] = {}
        self._numbers: Any = None
        self.feed(self.source)
        self.close()
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "figure":
            self._numbers = json.loads(dict(attrs)["data-chart"] or "")
        if tag not in VOID_TAGS:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open_tags and self.open_tags[-1] in ("script", "style"):
            return
        self.text += data + "\n"
        if self.open_tags and self.open_tags[-1] == "h3":
            self.figures[data] = {entry["name"]: entry for entry in self._numbers["series"]}

    def list_attributes(self, tag: str, name: str) -> list[str | None]:
        return [attributes.get(name) for found, attributes in self.tags if found == tag]


def train_line(step: int, **values: Any) -> dict[str, Any]:
    return {
        "event": "train", "step": step, "epoch": step // 10, "learning_rate": 1e-3,
        "loss": 3.0 / (step + 1), "token_accuracy": 0.5, "grad_norm": 1.0,
        "clips_per_second": 60.0, "audio_seconds_per_second": 120.0, **values,
    }  # fmt: skip


def full_line(step: int) -> dict[str, Any]:
    tasks = {
        "asr": {"loss": 1.0 + step % 7, "token_accuracy": 0.5},
        "audiocaption_v2": {"loss": 2.0, "token_accuracy": 0.4},
    }
    extra = {"data_wait_share": 0.03, "padding_share": 0.07, "memory_gib": 1.4, "tasks": tasks}
    return train_line(step, **extra)


def valid_line(step: int, loss: float, **values: Any) -> dict[str, Any]:
    return {
        "event": "valid", "step": step, "epoch": step // 10 - 1, "loss": loss,
        "token_accuracy": 0.6, "num_clips": 160, "num_tokens": 1051, **values,
    }  # fmt: skip


def scored_line(step: int, loss: float, wer: float) -> dict[str, Any]:
    scores = {
        "asr": {"wer": {"value": wer, "low": wer - 0.02, "high": wer + 0.03, "num_clips": 64}},
        "audiocaption_v2": {
            "cider_d": {"value": 1.5, "low": 1.2, "high": 1.9, "num_clips": 60},
            "bleu_4": {"value": 0.3, "low": 0.2, "high": 0.4, "num_clips": 60},
        },
    }
    tasks = {"asr": {"loss": 0.4, "token_accuracy": 0.8, "num_clips": 100}}
    return valid_line(step, loss, scores=scores, tasks=tasks)


def write_run(folder: Path, lines: list[dict[str, Any]], tail: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    text = "".join(json.dumps(line) + "\n" for line in lines) + tail
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    return folder


def write_samples(folder: Path, num_clips: int, seconds: float = 1.0, **values: Any) -> None:
    (folder / "samples").mkdir()
    samples = []
    noise = np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds)).astype("float32")
    for i in range(num_clips):
        name = f"samples/clip_{i}.flac"
        soundfile.write(folder / name, noise, 16_000)
        samples.append({
            "id": f"a/{i}.wav", "task": "asr", "prompt": "USER: <SpeechHere>", "step": 20,
            "references": [f"reference {i}"], "hypothesis": f"answer {i}", "audio": name, **values,
        })  # fmt: skip
    (folder / "samples.json").write_text(json.dumps(samples), encoding="utf-8")


@pytest.fixture
def full_run(tmp_path: Path) -> Path:
    """A run with every kind of line and file."""
    lines = [full_line(step) for step in range(20)]
    lines += [
        {"event": "skip", "step": 20, "epoch": 2, "reason": "out of memory", "ids": ["x.wav"]},
        scored_line(20, 0.9, 0.25),
        {"event": "save", "step": 20, "path": "checkpoint_1.pth"},
        *[full_line(step) for step in range(21, 40)],
        scored_line(40, 0.7, 0.12),
    ]
    folder = write_run(tmp_path / "my_run_1", lines)
    write_samples(folder, 2)
    summary = {
        "validations": [], "train_audio": "320 clips, 1 skipped", "valid_audio": "160 clips",
        "skipped": [{"index": 7, "id": "broken.wav", "reason": "no such file"}],
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_page_shows_every_curve(full_run: Path) -> None:
    path = write_report(full_run)
    assert path == full_run / "report.html"
    page = Page(path)
    assert list(page.figures) == [
        "Loss", "Loss by task", "Token accuracy", "Token accuracy by task", "WER", "CIDEr-D",
        "BLEU-4", "Learning rate", "Gradient norm", "Throughput", "Audio throughput",
        "Wait for data", "Padding", "Memory",
    ]  # fmt: skip
    assert set(page.figures["Loss"]) == {"training", "validation"}
    assert page.figures["Loss"]["validation"]["x"] == [20, 40]
    assert page.figures["Loss"]["validation"]["y"] == [0.9, 0.7]
    assert page.figures["Loss"]["training"]["x"][0] == 1  # step 0 done
    assert set(page.figures["Loss by task"]) == {"asr", "asr, validation", "audiocaption v2"}
    assert page.figures["WER"]["asr"]["y"] == [25.0, 12.0]  # a fraction in the log, % here
    assert page.figures["WER"]["asr"]["low"] == [23.0, 10.0]
    assert page.figures["WER"]["asr"]["high"] == [28.0, 15.0]
    assert page.figures["Padding"]["padding"]["y"][0] == 7.0
    num_lines = sum("line" in (name or "") for name in page.list_attributes("polyline", "class"))
    assert num_lines == sum(len(series) for series in page.figures.values())


def test_page_tells_state_bests_and_tables(full_run: Path) -> None:
    text = Page(write_report(full_run)).text
    assert re.search(r"my_run\nfinished\n.*320 clips, 1 skipped\.", text)
    assert "Steps\n40\nepoch 4 of 4\n" in text
    assert "Best validation loss\n0.7000\nnats per answer token, step 40\n" in text
    assert "Best WER, asr\n12.0 %\n10.0 to 15.0, 64 clips, step 40\n" in text
    assert "Best CIDEr-D, audiocaption v2\n1.500\n1.200 to 1.900, 60 clips, step 20\n" in text
    assert text.count("Best ") == 3  # each task's first score; the others have curves
    assert "20\nout of memory\nx.wav\n" in text
    assert "7\nbroken.wav\nno such file\n" in text
    assert "exp_name: my_run" in text
    assert "n = 64 clips" in text


@pytest.mark.parametrize("measure", [measure_transcripts, measure_phones])
def test_every_error_rate_is_better_when_lower(measure: Any) -> None:
    """Each number of transcripts, as the training log has them."""
    assert set(measure(["a b"], ["a c"])) <= set(LOWER_IS_BETTER) <= set(SCORES)


def test_running_and_stopped_runs_say_so(tmp_path: Path) -> None:
    lines = [train_line(step) for step in range(3)]
    running = Page(write_report(write_run(tmp_path / "a", lines))).text
    assert "\nrunning\n" in running
    stop = {"event": "stop", "step": 3, "reason": "SIGTERM"}
    stopped = Page(write_report(write_run(tmp_path / "b", [*lines, stop]))).text
    assert re.search(r"\nstopped\n\s*SIGTERM\. Last log line", stopped)
    resume = {"event": "resume", "step": 3, "epoch": 0, "num_processes": 1}
    resumed = Page(write_report(write_run(tmp_path / "c", [*lines, stop, resume]))).text
    assert "\nrunning\n" in resumed
    assert "SIGTERM" not in resumed


def test_superseded_lines_are_dropped_and_the_resume_is_marked(tmp_path: Path) -> None:
    lines = [train_line(step, loss=50.0 if step >= 12 else 1.0) for step in range(20)]
    lines.insert(10, valid_line(10, 0.9))
    skip = {"event": "skip", "step": 15, "epoch": 1, "reason": "non-finite loss", "ids": ["y.wav"]}
    lines += [skip, valid_line(20, 0.1)]
    lines.append({"event": "resume", "step": 12, "epoch": 1, "num_processes": 2})
    lines += [train_line(step, loss=2.0) for step in range(12, 18)]
    page = Page(write_report(write_run(tmp_path / "run", lines)))
    training = page.figures["Loss"]["training"]
    assert training["x"] == list(range(1, 19))
    assert training["y"] == [1.0] * 12 + [2.0] * 6
    assert page.figures["Loss"]["validation"]["x"] == [10]
    assert "y.wav" not in page.text
    assert "Best validation loss\n0.9000" in page.text
    assert "10 log lines superseded" in page.text  # 8 of training, a skip, a validation
    marks = [name for name in page.list_attributes("path", "class") if name == "resume"]
    assert len(marks) == 2 * len(page.figures)  # each chart and its legend


def test_log_that_went_back_without_a_resume_line(tmp_path: Path) -> None:
    """Runs of older versions went on from an epoch's start and said nothing."""
    lines = [train_line(step, loss=9.0) for step in (4, 9, 14, 19)]
    lines += [train_line(step, loss=1.0) for step in (14, 19, 24)]
    training = Page(write_report(write_run(tmp_path / "run", lines))).figures["Loss"]["training"]
    assert training["x"] == [5, 10, 15, 20, 25]
    assert training["y"] == [9.0, 9.0, 1.0, 1.0, 1.0]


def test_validation_done_again_counts_once(tmp_path: Path) -> None:
    resume = {"event": "resume", "step": 20, "epoch": 2, "num_processes": 1}
    lines = [train_line(19), valid_line(20, 0.5), resume, valid_line(20, 0.4)]
    validation = Page(write_report(write_run(tmp_path / "run", lines))).figures["Loss"][
        "validation"
    ]
    assert (validation["x"], validation["y"]) == ([20], [0.4])


def test_older_logs_give_fewer_charts(tmp_path: Path) -> None:
    lines = [train_line(step) for step in (4, 9)] + [valid_line(10, 1.5)]
    page = Page(write_report(write_run(tmp_path / "run", lines)))
    assert list(page.figures) == [
        "Loss", "Token accuracy", "Learning rate", "Gradient norm", "Throughput",
        "Audio throughput",
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_half_written_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    tail = json.dumps(train_line(2, loss=7.0))[:cut]
    folder = write_run(tmp_path / "run", [train_line(0), train_line(1)], tail)
    page = Page(write_report(folder))
    assert page.figures["Loss"]["training"]["x"] == [1, 2]
    assert "1 line cut short" in page.text


def test_line_that_follows_half_a_line_counts(tmp_path: Path) -> None:
    """After a kill the resumed run appends to what the killed one had begun."""
    lines = [train_line(step, loss=1.0) for step in range(6)]
    folder = write_run(tmp_path / "run", lines, '{"event": "train", "step": 6, "lo')
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"event": "resume", "step": 4, "epoch": 0, "num_processes": 1}\n')
        log.write(json.dumps(train_line(4, loss=2.0)) + "\n")
    history = read_history(folder)
    assert [record["step"] for record in history.resumes] == [4]
    assert [record["loss"] for record in history.train] == [1.0] * 4 + [2.0]


@pytest.mark.parametrize(
    "line",
    [
        "[]", "3", "null", '"text"', "{}", '{"event": "train"}', '{"event": 1, "step": 2}',
        '{"event": "train", "step": "five", "loss": 1.0}', '{"event": "train", "step": -1}',
        '{"event": "train", "step": 5, "loss": "high", "tasks": [1], "epoch": "x"}',
        '{"event": "train", "step": 5, "loss": NaN, "grad_norm": Infinity, "epoch": NaN}',
        '{"event": "train", "step": 5, "loss": 1' + "0" * 400 + "}",
        '{"event": "train", "step": 5, "tasks": {"asr": 3}, "memory_gib": {"a": 1}}',
        '{"event": "valid", "step": 5, "scores": {"asr": [], "x": {"wer": 3}}, "loss": null}',
        '{"event": "valid", "step": 5, "scores": {"x": {"wer": {"value": NaN, "low": "a"}}}}',
        '{"event": "valid", "step": 5, "scores": {"x": {"f1": {"value": 0.5}}}}',
        '{"event": "skip", "step": 5}', '{"event": "skip", "step": 5, "ids": "abc"}',
        '{"event": "resume", "step": 0}', '{"event": "stop", "step": 5}',
        '{"event": "train", "step": 5, "time": "noon"}', "[" * 100_000, "\x00\ufffd",
        '{"event": "train", "step": 5, "loss": 0, "grad_norm": 0, "learning_rate": 0}',
        '{"event": "train", "step": 5, "loss": 5e-324, "grad_norm": 1e300}',
    ],
)  # fmt: skip
def test_no_line_stops_the_report(tmp_path: Path, line: str) -> None:
    folder = write_run(tmp_path / "run", [train_line(0), train_line(1)], line + "\n")
    page = Page(write_report(folder))
    assert "Loss" in page.figures or "resume" in line
    assert "nan" not in "".join(
        str(points) for points in page.list_attributes("polyline", "points")
    )


@pytest.mark.parametrize("name", ["config.yaml", "samples.json", "summary.json", "log.jsonl"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2", b"a: [", b"\xff\xfe\x00", b"3", b"[3]"])
def test_damaged_file_does_not_stop_the_report(full_run: Path, name: str, content: bytes) -> None:
    (full_run / name).write_bytes(content)
    assert "</html>" in write_report(full_run).read_text(encoding="utf-8")


def test_run_that_has_not_logged_yet(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [])
    assert "no number to draw yet" in Page(write_report(folder)).text
    (folder / "log.jsonl").unlink()
    assert "no number to draw yet" in Page(write_report(folder)).text


def test_values_that_no_axis_shows_are_counted(tmp_path: Path) -> None:
    lines = [train_line(step) for step in range(5)]
    lines[2]["loss"], lines[3]["loss"] = math.nan, math.inf
    page = Page(write_report(write_run(tmp_path / "run", lines)))
    assert page.figures["Loss"]["training"]["x"] == [1, 2, 5]
    assert "2 values are not drawn" in page.text


def test_every_text_is_escaped(tmp_path: Path) -> None:
    tasks = {NASTY: {"loss": 1.0}, "asr": {"loss": 1.0}}
    lines = [
        train_line(0, tasks=tasks),
        {"event": "skip", "step": 1, "epoch": 0, "reason": NASTY, "ids": [NASTY]},
        valid_line(2, 1.0, scores={NASTY: {NASTY: {"value": 1.0, "num_clips": 3}}}),
        {"event": "stop", "step": 2, "reason": NASTY},
    ]
    folder = write_run(tmp_path / "run", lines)
    (folder / "config.yaml").write_text(f"run:\n  exp_name: {json.dumps(NASTY)}\n")
    write_samples(folder, 1, id=NASTY, task=NASTY, prompt=NASTY, hypothesis=NASTY,
                  references=[NASTY])  # fmt: skip
    summary = {"skipped": [{"index": 1, "id": NASTY, "reason": NASTY}], "train_audio": NASTY}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = Page(write_report(folder))
    assert page.source.count("<script>") == page.source.count("</script>") == 1
    assert "img" not in {tag for tag, _ in page.tags}
    assert page.text.count("<script>alert") >= 10  # as text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_page_needs_no_network(full_run: Path) -> None:
    source = write_report(full_run).read_text(encoding="utf-8")
    assert not re.search(
        r"(?:https?:)?//(?!www\.w3\.org/)\w", re.sub(r"base64,[\w+/=]+", "", source)
    )
    assert not re.search(r"@import|url\(|<link|<iframe|\bfetch\b|XMLHttpRequest", source)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source)
    assert policy is not None
    assert "default-src 'none'" in policy.group(1)
    sources = Page(full_run / "report.html").list_attributes("audio", "src")
    assert len(sources) == 2
    assert all(str(source).startswith("data:audio/flac;base64,") for source in sources)


def test_page_stays_small_for_a_long_log(tmp_path: Path) -> None:
    lines = [full_line(step) for step in range(20_000)]
    lines[9_000]["loss"] = 77.0  # one bad line among 20,000 is still seen
    path = write_report(write_run(tmp_path / "run", lines))
    assert path.stat().st_size < 400_000
    training = Page(path).figures["Loss"]["training"]
    assert len(training["x"]) == MAX_POINTS
    assert max(training["high"]) == 77.0


def test_samples_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run", [train_line(0)])
    write_samples(folder, MAX_CLIPS + 3)
    page = Page(write_report(folder))
    assert len(page.list_attributes("audio", "src")) == MAX_CLIPS
    assert f"{MAX_CLIPS} of {MAX_CLIPS + 3} clips" in page.text
    num_bytes = (folder / "samples" / "clip_0.flac").stat().st_size
    monkeypatch.setattr(samples_module, "MAX_AUDIO_BYTES", int(2.5 * num_bytes))
    page = Page(write_report(folder))
    assert len(page.list_attributes("audio", "src")) == 2
    assert "too large for this page: listen to samples/clip_2.flac" in page.text


@pytest.mark.parametrize("audio", ["../secret.wav", "/etc/hostname", "samples/none.flac", 3, None])
def test_only_audio_of_the_run_folder_is_taken_in(tmp_path: Path, audio: Any) -> None:
    (tmp_path / "secret.wav").write_bytes(b"secret")
    folder = write_run(tmp_path / "run", [train_line(0)])
    write_samples(folder, 1, audio=audio)
    page = Page(write_report(folder))
    assert page.list_attributes("audio", "src") == []
    assert "answer 0" in page.text


def test_failed_write_leaves_the_earlier_report(
    full_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_report(full_run).read_bytes()
    (full_run / "summary.json").unlink()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(full_run)
    assert (full_run / "report.html").read_bytes() == before
    assert not list(full_run.glob(".report*"))


def test_report_writes_nothing_else(full_run: Path) -> None:
    before = {path: path.read_bytes() for path in full_run.rglob("*") if path.is_file()}
    write_report(full_run)
    (full_run / "report.html").unlink()
    after = {path: path.read_bytes() for path in full_run.rglob("*") if path.is_file()}
    assert after == before


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "absent")


def test_command_line(full_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "audiolm.training.report"]
    run = {"cwd": ROOT / "audiolm-trainer", "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*command, str(full_run)], **run)
    assert (done.returncode, done.stdout.strip()) == (0, str(full_run / "report.html"))
    failed = subprocess.run([*command, str(tmp_path / "absent")], **run)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert len(failed.stderr.splitlines()) == 1
    program = "import sys, audiolm.training.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], **run).returncode == 0


def test_duration_from_logged_times_leaves_pauses_out(tmp_path: Path) -> None:
    lines = [train_line(step, time=1_000_000 + 60 * step) for step in range(11)]
    lines.append({"event": "resume", "step": 11, "epoch": 1, "time": 2_000_000})
    lines.append(train_line(11, time=2_000_120))
    history = read_history(write_run(tmp_path / "run", lines))
    assert history.measure_seconds() == (720, False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min"), (183_600, "2 d 3 h")],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.123456, "0.123"), (12.0, "12"), (12_345.6, "12,346"), (-2.5, "-2.5"),
        (0.00003, "3e-5"), (1.25e9, "1.25e9"), (math.inf, "inf"), (0.9996, "1"), (100, "100"),
    ],
)  # fmt: skip
def test_format_number(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.3, 3.7, ["0", "1", "2", "3", "4"]),
        (0.0, 0.001, ["0", "0.0002", "0.0004", "0.0006", "0.0008", "0.0010"]),
        (0.0, 3e-5, ["0", "1e-5", "2e-5", "3e-5"]),
        (0.0, 31_000.0, ["0", "10k", "20k", "30k", "40k"]),
        (-1.0, 1.0, ["-1.0", "-0.5", "0", "0.5", "1.0"]),
    ],
)
def test_linear_ticks_are_round(low: float, high: float, labels: list[str]) -> None:
    assert build_linear_axis(low, high).label_ticks() == labels


def test_log_ticks_are_round() -> None:
    axis = build_log_axis(0.07, 4.0)
    assert axis.label_ticks() == ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"]
    axis = build_log_axis(0.002, 700.0)
    assert axis.label_ticks() == ["0.001", "0.01", "0.1", "1", "10", "100", "1,000"]
    assert axis.place(1.0) == pytest.approx(0.5)


values = st.floats(-1e29, 1e29)


@example(8.000000002e28, -4.000000002e28, False)  # a little more than six steps: nine ticks
@given(values, values, st.booleans())
def test_linear_axis_holds_its_values(first: float, second: float, from_zero: bool) -> None:
    low, high = sorted((first, second))
    axis = build_linear_axis(low, high, from_zero=from_zero)
    slack = 1e-6 * (axis.high - axis.low)  # ticks are sums of a step that is not exact in binary
    assert axis.low - slack <= low <= high <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 9
    assert len(set(axis.label_ticks())) == len(axis.ticks)
    assert 0 <= axis.place(low) <= axis.place(high) <= 1


def test_shares_that_are_all_zero_have_no_axis_below_zero() -> None:
    assert build_linear_axis(0.0, 0.0, from_zero=True).low == 0


@given(st.floats(1e-29, 1e29), st.floats(LOG_SPAN, 1e29))
def test_log_axis_holds_its_values(low: float, span: float) -> None:
    high = min(low * span, 1e30)
    axis = build_log_axis(low, high)
    assert axis.low <= low * 1.001
    assert axis.high >= high * 0.999
    assert 2 <= len(axis.ticks) <= 9
    assert 0 <= axis.place(low) <= axis.place(high) <= 1


@given(st.integers(0, 10**12))
def test_step_axis_has_whole_ticks(num_steps: int) -> None:
    axis = build_step_axis(num_steps)
    assert all(tick == round(tick) for tick in axis.ticks)
    assert axis.ticks[0] == 0
    assert 2 <= len(axis.ticks) <= 8


def test_tick_step_is_one_two_or_five() -> None:
    steps = [choose_tick_step(span, 4) for span in (0.9, 1.7, 4.0, 9.0, 18.0, 44.0)]
    assert steps == pytest.approx([0.2, 0.5, 1.0, 2.0, 5.0, 10.0])


def test_long_line_keeps_its_range() -> None:
    numbers = np.random.default_rng(1).normal(size=5000)
    line = build_line("x", range(5000), numbers.tolist())
    assert len(line.values) == len(line.lows) == len(line.highs) == MAX_POINTS
    assert min(line.lows) == numbers.min()
    assert max(line.highs) == numbers.max()
    # Stretches hold 41 or 42 lines each, so means of means differ from the mean by little.
    assert np.mean(line.values) == pytest.approx(numbers.mean(), abs=1e-3)
    assert list(line.steps) == sorted(line.steps)


def test_points_lie_where_the_axes_say() -> None:
    series = Series("x", [0, 50, 100], [0.0, 2.0, 4.0])
    figure = draw_chart(Chart("T", "unit", [series]), num_steps=100)
    points = re.search(r'<polyline class="line" points="([^"]*)"', figure)
    assert points is not None
    xs, ys = zip(*(map(float, pair.split(",")) for pair in points.group(1).split()), strict=True)
    assert (xs[1], ys[1]) == pytest.approx(((xs[0] + xs[2]) / 2, (ys[0] + ys[2]) / 2))
    assert ys[0] > ys[2]  # up is more


def test_log_axis_leaves_zeros_out_and_says_so() -> None:
    series = build_line("x", range(4), [0.0, 0.01, 1.0, 10.0])
    figure = draw_chart(Chart("T", "unit", [series], may_be_log=True), num_steps=4)
    assert "logarithmic" in figure
    assert "1 value is not drawn" in figure


@pytest.mark.browser
def test_browser_shows_the_page(full_run: Path, browser: webdriver.Chrome) -> None:
    """Drawn inside the cards at both widths, audio decodes, our script runs and no other."""
    path = write_report(full_run)
    browser.get(path.as_uri())
    assert browser.execute_script("return document.documentElement.className") == "scripted"
    assert len(browser.find_elements(By.TAG_NAME, "figure")) == 14
    for width in (500, 1400):  # Chromium's windows are at least 500 pixels wide
        browser.set_window_size(width, 900)
        browser.get(path.as_uri())
        seen = browser.execute_async_script(PROBE)
        assert seen["overflow"] <= 0, width  # nothing makes the page scroll sideways
        assert seen["smallest_text"] >= 9.0, width  # pixels
        assert seen["audio_seconds"] == pytest.approx([1.0, 1.0], abs=0.05)
        assert seen["readout"].startswith("step ")
    assert list_page_errors(browser) == []
    blocked = path.with_name("blocked.html")
    source = path.read_text(encoding="utf-8")
    blocked.write_text(source + "<script>document.title = 'owned'</script>", encoding="utf-8")
    browser.get(blocked.as_uri())
    assert browser.title != "owned"
    assert list_page_errors(browser)  # the console says that the script was refused


PROBE = """
const finish = arguments[0];
const players = [...document.querySelectorAll("audio")];
const loaded = players.map((player) => new Promise((done) => {
  if (player.readyState >= 1) done(player.duration);
  player.addEventListener("loadedmetadata", () => done(player.duration));
  player.addEventListener("error", () => done(-1));
}));
const chart = document.querySelector("figure > svg"), box = chart.getBoundingClientRect();
chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2}));
const scales = [...document.querySelectorAll("figure > svg")].map(
  (svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width);
Promise.all(loaded).then((seconds) => {
  const root = document.documentElement;
  finish({
    overflow: root.scrollWidth - root.clientWidth, audio_seconds: seconds,
    smallest_text: 11 * Math.min(...scales),
    readout: document.querySelector(".readout").textContent,
  });
});
"""
