"""cli_inference.py and what it shares with web_demo.py, on the golden dev model."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli_inference
import pytest
import soundfile
import torch
import web_demo

from audiolm.errors import UserError
from audiolm.evaluation.answering import Answerer
from audiolm.evaluation.questions import build_prompt, load_clip
from audiolm.models.salmonn import SALMONN
from audiolm.prompts import PromptBook
from tests.golden import GOLDEN_DIR, Golden

ROOT = Path(__file__).resolve().parent.parent
DEV = GOLDEN_DIR / "dev"
GOOD = str(DEV / "audio" / "a.wav")
QFORMER = "model.qformer={hidden_size: 56, num_heads: 4, intermediate_size: 96}"  # variant.json
GENERATE = {"num_beams": 1, "max_new_tokens": 6, "do_sample": False}
CLI = [
    *("--cfg-path", str(DEV / "config_lora.yaml"), "--device", "cpu"),
    *("--options", QFORMER, "generate.num_beams=1", "generate.max_new_tokens=6"),
]
TEMPLATE = "USER: {}\nASSISTANT:"


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def make_bad_file(folder: Path) -> str:
    path = folder / "notes.txt"
    path.write_text("this is no audio", encoding="utf-8")
    return str(path)


# What both share


def test_answer_is_what_the_model_generates(
    answerer: Answerer, dev: Golden, dev_model: SALMONN
) -> None:
    samples = dev.load_samples([0])
    for prompt, full_prompt in {
        "": "USER: <Speech><SpeechHere></Speech> Transcribe the recording.\nASSISTANT:",
        "What is {this}?": "USER: <Speech><SpeechHere></Speech> What is {this}?\nASSISTANT:",
        "Hear <SpeechHere> now": "USER: Hear <SpeechHere> now\nASSISTANT:",
    }.items():
        (expected,) = dev_model.generate(samples, GENERATE, prompts=[full_prompt])
        assert expected
        assert answerer.ask(GOOD, prompt) == expected


def test_prompts_matter(answerer: Answerer) -> None:
    """So that the test above could tell them apart."""
    prompts = ("", "What is it?", "Hear <SpeechHere> now")
    assert len({answerer.ask(GOOD, prompt) for prompt in prompts}) > 1


def test_task_prompts() -> None:
    book = PromptBook({"asr": ["<SpeechHere> write"], "QA": ["<SpeechHere> {}"]}, "test")
    assert build_prompt(book, " ", "asr") == "<SpeechHere> write"
    assert build_prompt(book, "who?", "QA") == "<Speech><SpeechHere></Speech> who?"
    with pytest.raises(UserError, match="give it as the prompt"):
        build_prompt(book, "", "QA")
    with pytest.raises(UserError, match="did you mean 'asr'"):
        build_prompt(book, "", "asrr")


def test_two_markers_are_a_mistake(answerer: Answerer) -> None:
    with pytest.raises(UserError, match="2 times"):
        answerer.ask(GOOD, "<SpeechHere> and <SpeechHere>")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "no audio file given"),
        ("nowhere.wav", "no such file"),
        ("~nobody-of-this-name/x.wav", "no such file"),
        (".", "is a folder"),
        ("x" * 5000, "check the path"),
        ("notes.txt", "cannot be read"),
        ("a\0b.wav", "no such file"),
    ],
)
def test_bad_paths(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_bad_file(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_clip(path)
    assert "\n" not in str(caught.value)


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    soundfile.write(tmp_path / "a b.wav", torch.zeros(20_000).numpy(), 16_000)
    assert len(load_clip("~/a b.wav").samples) == 20_000


def test_long_clip_is_cut_aloud(
    answerer: Answerer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, torch.zeros(8_000 * 31).numpy(), 8_000)
    answerer.ask(path)
    assert "only the first 30 s of 31.0 s" in caplog.text


# Command line


def test_cli_survives_bad_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad path is told and asked for again; the next answer comes; `:quit` ends with 0."""
    monkeypatch.chdir(tmp_path)
    bad = make_bad_file(tmp_path)
    two = "<SpeechHere> <SpeechHere>"
    type_lines(monkeypatch, "no.wav", bad, "", GOOD, two, f"'{GOOD}'", "", ":quit", GOOD, "")
    assert cli_inference.main(CLI) == 0
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    assert "no.wav: no such file" in errors[0]
    assert "notes.txt: cannot be read" in errors[1]
    assert "no audio file given" in errors[2]
    assert "2 times" in errors[3]
    assert captured.out.count("prompt (empty: asr): ") == 2
    assert captured.out.count("wav: ") == 6  # the last one is answered with :quit


@pytest.mark.parametrize("lines", [(), (GOOD,), (GOOD, ":quit", GOOD, "")])
def test_cli_leaves_at_either_question(
    lines: tuple[str, ...],
    answerer: Answerer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Answerer, "from_config", lambda *_: answerer)
    type_lines(monkeypatch, *lines)
    assert cli_inference.main(CLI) == 0
    assert capsys.readouterr().err == ""


def test_cli_interactive_equals_one_shot(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_inference.main([*CLI, "--wav", GOOD, "--prompt", "Hear this"]) == 0
    printed = capsys.readouterr().out
    assert printed == answerer.ask(GOOD, "Hear this") + "\n"
    monkeypatch.setattr(Answerer, "from_config", lambda *_: answerer)
    type_lines(monkeypatch, GOOD, "Hear this")
    assert cli_inference.main(CLI) == 0
    assert printed in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--wav", "no.wav"], "no such file"),
        (["--wav", GOOD, "--task", "asrr"], "no prompt for task"),
        (["--task", "asrr"], "no prompt for task"),
        (["--prompt", "What?"], "needs --wav"),
    ],
)
def test_cli_tells_mistakes_before_loading(
    flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answerer, "from_config", None)  # a call would be a TypeError
    with pytest.raises(UserError, match=message):
        cli_inference.main([*CLI, *flags])


def test_cli_exit_status_of_a_mistake() -> None:
    command = [sys.executable, str(ROOT / "audiolm-trainer" / "cli_inference.py")]
    done = subprocess.run(
        [*command, *CLI, "--wav", "no.wav"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    *warnings, line = done.stderr.splitlines()  # of the old file's retired options
    assert all(warning.startswith("WARNING: ") for warning in warnings)
    assert line.startswith("error: audio file no.wav: no such file")


@pytest.mark.parametrize("script", [cli_inference, web_demo])
def test_help_needs_neither_torch_nor_gradio(script: Any) -> None:
    program = (
        "import sys\n"
        f"import {script.__name__} as script\n"
        "try:\n    script.main(['--help'])\n"
        "except SystemExit:\n    sys.exit(bool({'torch', 'gradio'} & {*sys.modules}))\n"
    )
    folder = ROOT / "audiolm-trainer"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True)
    assert done.returncode == 0
