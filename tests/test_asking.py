"""Streaming, lists of clips, JSON and `load_model`, on the golden dev model."""

import itertools
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cli_inference
import numpy as np
import pytest
import soundfile
import torch

import audiolm
from audiolm.audio.features import LogMel
from audiolm.errors import UserError
from audiolm.evaluation import answer_stream, answering
from audiolm.evaluation.answer_stream import show_so_far
from audiolm.evaluation.answering import Answerer, Reply, grow
from audiolm.evaluation.questions import list_questions
from audiolm.models.salmonn import SALMONN
from audiolm.prompts import PromptBook
from tests.golden import Golden
from tests.test_inference import CLI, DEV, GENERATE, GOOD, TEMPLATE, type_lines

ROOT = Path(__file__).resolve().parent.parent
OTHER = str(DEV / "audio" / "b.wav")


@pytest.fixture
def loaded(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> Answerer:
    """The command line loads this one."""
    monkeypatch.setattr(Answerer, "from_config", lambda *_: answerer)
    return answerer


def make_reply(text: str) -> Reply:
    return Reply(text, 1, 0.1, 0.1, is_last=False)


# Streaming


def test_stream_is_the_answer_in_pieces(
    answerer: Answerer, dev: Golden, dev_model: SALMONN
) -> None:
    prompt = "USER: <Speech><SpeechHere></Speech> Hear this\nASSISTANT:"
    (expected,) = dev_model.generate(dev.load_samples([0]), GENERATE, prompts=[prompt])
    replies = list(answerer.reply(GOOD, "Hear this"))
    assert replies[-1].text == expected
    assert [reply.is_last for reply in replies] == [False] * (len(replies) - 1) + [True]
    assert [reply.num_tokens for reply in replies[:-1]] == [*range(1, len(replies))]
    pieces = list(answerer.stream(GOOD, "Hear this"))
    assert len(pieces) > 2
    assert "".join(pieces) == expected


def test_times_of_a_reply(answerer: Answerer) -> None:
    *_, last = answerer.reply(GOOD)
    assert 0 < last.ttft_seconds < last.seconds
    assert last.tpot_seconds == (last.seconds - last.ttft_seconds) / (last.num_tokens - 1)
    assert make_reply("a").tpot_seconds is None


def test_readers_time_is_not_the_models(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens between two tokens at the reader's is in none of the figures."""
    clock = itertools.count()
    reader = itertools.count(0, 1_000_000)
    passed = [0]
    now = lambda: next(clock) + passed[0]  # noqa: E731
    monkeypatch.setattr(answering, "time", SimpleNamespace(perf_counter=now))
    for reply in answerer.reply(GOOD):
        passed[0] = next(reader)
        assert 0 < reply.seconds < 1000
    assert passed[0] > 1_000_000


def test_clip_is_encoded_once(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = answerer.hear(answerer.load(GOOD))
    monkeypatch.setattr(SALMONN, "encode_speech", None)  # a call would be a TypeError
    first = answerer.ask(clip, "Hear this")
    assert first == answerer.ask(clip, "Hear this")
    assert first != answerer.ask(clip, "What is it?")


def test_what_comes_before_the_audio_is_read_once(answerer: Answerer, dev: Golden) -> None:
    assert answerer._prefixes is not None
    whole = answerer.model.generate(
        dev.load_samples([0]), answerer.generate_cfg, prompts=[answerer.plan_prompt("Hear this")]
    )
    assert [answerer.ask(GOOD, "Hear this")] == whole
    num_computed = answerer._prefixes.num_computed
    assert [answerer.ask(GOOD, "Hear this")] == whole
    answerer.ask(GOOD, "What is it?")
    assert answerer._prefixes.num_computed == num_computed >= 1


def test_beams_come_whole(dev_model: SALMONN, book: PromptBook, dev: Golden) -> None:
    log_mel = LogMel.from_pretrained(DEV / "components" / "whisper")
    beams = {**GENERATE, "num_beams": 2}
    answerer = Answerer(dev_model, log_mel, book, TEMPLATE, beams, torch.device("cpu"))
    prompt = "USER: <Speech><SpeechHere></Speech> Hear this\nASSISTANT:"
    (expected,) = dev_model.generate(dev.load_samples([0]), beams, prompts=[prompt])
    replies = list(answerer.reply(GOOD, "Hear this"))
    assert len(replies) == 2
    assert replies[-1].text == expected


def test_closing_a_stream_stops_the_decoding(answerer: Answerer) -> None:
    before = threading.active_count()
    replies = answerer.reply(GOOD)
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_error_while_decoding_reaches_the_caller(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(answer_stream, "stream_ids", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        answerer.ask(GOOD)


def test_growing_text_is_never_taken_back() -> None:
    assert list(grow(map(make_reply, ["a", "a", "a b", "a bc"]))) == ["a", " b", "c"]
    assert list(grow(map(make_reply, ["ab", "aX", "aXc"]))) == ["ab", "\naXc"]
    assert list(grow([])) == []


def test_beginning_of_an_end_symbol_is_held_back(dev_model: SALMONN) -> None:
    tokenizer = dev_model.llama_tokenizer
    ids = tokenizer("so USER", add_special_tokens=False).input_ids
    full = show_so_far(tokenizer, ids, ["USER:"], is_last=True)
    assert full.endswith("USER")
    assert not show_so_far(tokenizer, ids, ["USER:"], is_last=False).endswith("USER")


# Lists of clips


def test_folder_and_list_and_annotation(tmp_path: Path, book: PromptBook) -> None:
    for name in ("b.wav", "a.flac", "sub/c.OGG", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    questions = list_questions(str(tmp_path), book)
    assert [Path(q.path).name for q in questions] == ["a.flac", "b.wav", "c.OGG"]
    assert {q.task for q in questions} == {"asr"}
    listed = tmp_path / "clips.txt"
    listed.write_text("# mine\nb.wav\n\nnowhere.wav\n", encoding="utf-8")
    questions = list_questions(str(listed), book, "What is it?")
    assert [q.path for q in questions] == [tmp_path / "b.wav", tmp_path / "nowhere.wav"]
    assert {q.task for q in questions} == {""}
    annotation = tmp_path / "x.json"
    rows = [{"path": "/b.wav", "task": "asr"}, {"path": "b.wav", "offset": 1.0, "duration": 2.0}]
    annotation.write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    questions = list_questions(str(annotation), book, prefix=str(tmp_path))
    assert [q.path for q in questions] == [tmp_path / "b.wav"] * 2
    assert questions[1].span.offset_seconds == 1.0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", None, "no audio file in it"),
        ("x.txt", b"# only this\n", "no path in it"),
        ("x.txt", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_useless_lists(
    name: str, content: bytes | None, message: str, tmp_path: Path, book: PromptBook
) -> None:
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list_questions(str(path), book)


@pytest.mark.parametrize("audio", ["", " "])
def test_no_path_is_not_the_current_folder(audio: str, book: PromptBook) -> None:
    """As from a shell's variable that is not set."""
    with pytest.raises(UserError, match="--wav is empty"):
        list_questions(audio, book)


def test_cli_answers_a_list_and_goes_on_after_a_bad_clip(
    loaded: Answerer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "clips.txt"
    listed.write_text(f"{GOOD}\nnowhere.wav\n{OTHER}\n", encoding="utf-8")
    assert cli_inference.main([*CLI, "--wav", str(listed), "--prompt", "Hear this"]) == 1
    captured = capsys.readouterr()
    rows = [line.split("\t") for line in captured.out.splitlines()]
    expected = [
        [path, " ".join(loaded.ask(path, "Hear this").split("\n"))] for path in (GOOD, OTHER)
    ]
    assert rows == expected
    assert "nowhere.wav: no such file" in captured.err
    assert "1 of 3 clips could not be used" in captured.err


def test_cli_json(loaded: Answerer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_inference.main([*CLI, "--wav", GOOD, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["text"] == loaded.ask(GOOD)
    assert (row["path"], row["task"]) == (GOOD, "asr")
    assert row["ttft_ms"] > row["encode_ms"] > 0
    assert row["num_audio_tokens"] == 88
    listed = tmp_path / "clips.txt"
    listed.write_text(f"nowhere.wav\n{GOOD}\n", encoding="utf-8")
    assert cli_inference.main([*CLI, "--wav", str(listed), "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "no such file" in rows[0]["error"]
    assert rows[1]["text"] == row["text"]


def test_cli_streamed_output_is_the_same(
    loaded: Answerer, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for flag in ("--stream", "--no-stream"):
        assert cli_inference.main([*CLI, "--wav", GOOD, flag]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == loaded.ask(GOOD) + "\n"


def test_cli_commands(
    loaded: Answerer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other_task = next(task for task in loaded.tasks if task != "asr")
    type_lines(monkeypatch, ":help", ":task", f":task {other_task}", ":task nothing", ":x", ":quit")
    assert cli_inference.main(CLI) == 0
    captured = capsys.readouterr()
    assert "asks about the last clip again" in captured.out
    assert "in use: asr" in captured.out
    errors = captured.err.splitlines()
    assert "no prompt for task 'nothing'" in errors[0]
    assert ":x: no such command" in errors[1]


def test_cli_asks_again_about_the_last_clip(
    loaded: Answerer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []
    hear = Answerer.hear
    monkeypatch.setattr(Answerer, "hear", lambda *args: calls.append(1) or hear(*args))
    type_lines(monkeypatch, GOOD, "Hear this", "", "What is it?")
    assert cli_inference.main(CLI) == 0
    assert len(calls) == 1
    assert loaded.ask(GOOD, "What is it?") in capsys.readouterr().out


def test_cli_outlives_errors_of_the_machine(
    loaded: Answerer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(Answerer, "hear", fail)
    type_lines(monkeypatch, GOOD, GOOD, ":quit")
    assert cli_inference.main(CLI) == 0
    assert capsys.readouterr().err.count("no memory left") == 2


def test_history_that_cannot_be_kept_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("readline")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with cli_inference.LineHistory():
        pass
    assert "not kept" in capsys.readouterr().err
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "new"))
    with cli_inference.LineHistory():
        pass
    assert (tmp_path / "new" / "audiolm" / "history").is_file()


def test_paths_are_completed(tmp_path: Path) -> None:
    (tmp_path / "a b.wav").touch()
    (tmp_path / "a sub").mkdir()
    found = [cli_inference.complete_path(f"{tmp_path}/a", state) for state in range(3)]
    assert found == [f"{tmp_path}/a b.wav", f"{tmp_path}/a sub/", None]


# Library


def test_load_model_is_lazy() -> None:
    program = (
        "import sys, audiolm\nassert 'torch' not in sys.modules\n"
        "from audiolm import load_model\nassert 'torch' in sys.modules and callable(load_model)"
    )
    folder = ROOT / "audiolm-trainer"
    assert subprocess.run([sys.executable, "-c", program], cwd=folder, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        audiolm.nothing  # noqa: B018


def test_load_model_answers(answerer: Answerer, tmp_path: Path) -> None:
    options = CLI[CLI.index("--options") + 1 :]
    model = audiolm.load_model(DEV / "config_lora.yaml", device="cpu", options=options)
    assert model.ask(GOOD, "Hear this") == answerer.ask(GOOD, "Hear this")
    assert model.transcribe(GOOD) == answerer.ask(GOOD)
    assert "".join(model.stream(GOOD)) == answerer.ask(GOOD)
    soundfile.write(tmp_path / "x.wav", np.zeros(16_000, np.float32), 16_000)
    assert isinstance(model.transcribe(str(tmp_path / "x.wav")), str)
    with pytest.raises(UserError, match=r"none\.pth"):
        audiolm.load_model(DEV / "config_lora.yaml", tmp_path / "none.pth", options=options)
