"""The demo page: its parts, and the page itself in headless Chromium, on the golden dev model."""

import argparse
import builtins
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch
import web_demo
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from audiolm.config_file import load_config, save_config
from audiolm.errors import UserError
from audiolm.evaluation.answering import Answerer
from audiolm.evaluation.demo_page import desk as desk_module
from audiolm.evaluation.demo_page.catalogue import ModelChoice, list_choices
from audiolm.evaluation.demo_page.desk import ModelDesk, take_clip
from audiolm.evaluation.demo_page.handlers import PageHandlers, list_examples
from audiolm.evaluation.demo_page.layout import MAX_WAITING, Page
from audiolm.evaluation.demo_page.pictures import TokenGrid, draw_clip, plan_grid
from audiolm.evaluation.demo_page.snippets import Asked, Timing, format_ms, show_history
from audiolm.evaluation.demo_page.wording import choose_language, list_keys, say
from audiolm.models.salmonn import SALMONN
from tests.browsing import list_page_errors
from tests.test_inference import CLI, DEV, GOOD, make_bad_file

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = CLI[CLI.index("--options") + 1 :]
TIMING = Timing(0.05, 0.0015, 0.02, 88, 6, 2**30)
WAIT_SECONDS = 60


@pytest.fixture
def desk(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> ModelDesk:
    """Two models by name; both are `dev`, which is built once for all tests."""
    monkeypatch.setattr(Answerer, "from_config", lambda *_: answerer)
    config = load_config(DEV / "config_lora.yaml", [*OPTIONS, "run.device=cpu"])
    return ModelDesk([ModelChoice("one", config), ModelChoice("two", config)])


@pytest.fixture
def handlers(desk: ModelDesk) -> PageHandlers:
    return PageHandlers(desk, list_examples(desk.first.config), max_seconds=40.0)


# Parts


def test_choices_are_the_checkpoints_that_fit(tmp_path: Path) -> None:
    config = load_config(DEV / "config_lora.yaml", OPTIONS)
    checkpoint = config.model.ckpt
    config.model.ckpt = ""
    save_config(config, tmp_path / "mine.yaml")
    for number, run in enumerate(("old", "other", "new")):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        config.model.whisper_path = "elsewhere" if run == "other" else config.model.whisper_path
        save_config(config, folder / "config.yaml")
        config = load_config(tmp_path / "mine.yaml", OPTIONS)
        (folder / "checkpoint_best.pth").touch()
        os.utime(folder / "config.yaml", (number, number))
    choices = list_choices([tmp_path / "mine.yaml"], ["generate.num_beams=4"], [tmp_path / "runs"])
    names = [choice.name for choice in choices]
    assert names == ["mine: new/checkpoint_best.pth", "mine: old/checkpoint_best.pth"]
    assert choices[0].config.model.ckpt == str(tmp_path / "runs" / "new" / "checkpoint_best.pth")
    assert choices[0].config.generate.num_beams == 1  # beams cannot be shown as they go
    (untrained,) = list_choices([tmp_path / "mine.yaml"], [], [tmp_path / "nowhere"])
    assert untrained.name == "mine: untrained"
    (own,) = list_choices([tmp_path / "mine.yaml"], [f"model.ckpt={checkpoint}"], [tmp_path])
    assert own.name.endswith(Path(str(checkpoint)).name)
    with pytest.raises(UserError, match="two files of one name"):
        list_choices([tmp_path / "mine.yaml"] * 2, [], [])


def test_one_model_at_a_time(desk: ModelDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = desk.take("one")
    loads: list[int] = []
    monkeypatch.setattr(Answerer, "from_config", lambda *_: loads.append(1) or first)
    clip = take_clip(GOOD, 40)
    assert desk.hear("one", clip)[1] is False
    assert desk.hear("one", clip)[1] is True
    assert not loads
    desk.take("two")
    desk.take("two")
    assert len(loads) == 1
    assert desk.hear("one", clip)[1] is False  # another model hears otherwise
    with pytest.raises(UserError, match="no model 'three'"):
        desk.take("three")


def test_heard_clips_are_forgotten_in_turn(
    desk: ModelDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "MAX_HEARD_CLIPS", 1)
    clips = [take_clip(DEV / "audio" / name, 40) for name in ("a.wav", "b.wav")]
    assert [desk.hear("one", clip)[1] for clip in (*clips, clips[1], clips[0])] == [
        False, False, True, False,
    ]  # fmt: skip


def test_clips_that_are_not_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^audio file notes\.txt: cannot be read") as caught:
        take_clip(make_bad_file(tmp_path), 40)
    assert str(tmp_path) not in str(caught.value)
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(41 * 8_000), 8_000)
    with pytest.raises(UserError, match=r"long\.wav is 41 s long; at most 40 s are taken"):
        take_clip(path, 40)
    assert take_clip(path, 42).waveform.was_truncated


def test_grid_is_the_models_own(answerer: Answerer, dev_model: SALMONN) -> None:
    waveform = answerer.load(GOOD)
    grid = plan_grid(dev_model, len(waveform.samples))
    assert len(grid.windows) * grid.tokens_per_window == answerer.hear(waveform).num_audio_tokens
    windows = dev_model.audio_options.windows
    assert grid.windows[1] == (windows.step / 50, (windows.step + windows.length) / 50)


@pytest.mark.parametrize("seconds", [0.3, 30.0])
def test_picture_of_a_clip(seconds: float) -> None:
    samples = np.sin(np.arange(int(seconds * 16_000)) / 20).astype(np.float32)
    windows = tuple((n * 0.1, n * 0.1 + 0.2) for n in range(int(seconds * 10) - 1))
    labels = ("wave <form>", "log-mel", "토큰", "s")
    svg = draw_clip(samples, torch.rand(80, 3000), TokenGrid(windows, 2), labels)
    root = ElementTree.fromstring(svg)  # well-formed, whatever the labels hold
    boxes = [item for item in root.iter() if item.tag.endswith("rect")]
    assert len(boxes) == len(windows)
    assert len({box.get("y") for box in boxes}) == min(len(windows), 2)  # windows overlap
    last = max(float(box.get("x", 0)) + float(box.get("width", 0)) for box in boxes)
    assert last <= 1000
    assert "3-4: 0.10-0.30 s" in svg or len(windows) < 2
    silent = draw_clip(samples * 0, torch.zeros(80, 3000), TokenGrid((), 1), labels)
    assert "nan" not in silent


def test_what_visitors_write_is_escaped() -> None:
    row = Asked("<b>.wav", "<script>", "<img src=x>", TIMING)
    table = show_history([row], "en")
    assert "<script>" not in table
    assert "<img" not in table
    assert "&lt;script&gt;" in table


def test_both_languages_say_everything() -> None:
    fill = {"name": "a.wav", "seconds": "31"}
    for key in list_keys():
        english, korean = (say(key, language, **fill) for language in ("en", "ko"))
        assert any("가" <= letter <= "힣" for letter in korean), key
        assert english.isascii(), key
    assert choose_language("ko-KR,ko;q=0.9,en;q=0.8") == "ko"
    assert choose_language("en-US,ko;q=0.5") == choose_language("") == "en"


def test_milliseconds_have_three_figures() -> None:
    assert [format_ms(s) for s in (0.003214, 0.04532, 1.2042)] == ["3.21 ms", "45.3 ms", "1,204 ms"]


# Events


def test_answer_grows_and_is_measured(handlers: PageHandlers, answerer: Answerer) -> None:
    heard = handlers.take_audio(GOOD, None, "one", "en")
    assert "<svg" in heard.picture
    assert heard.note == ""
    steps = list(handlers.ask("one", heard.clip, "asr", "", [], "en"))
    texts = [step.answer for step in steps]
    assert len({*texts}) > 2
    assert texts[-1] == answerer.ask(GOOD)
    assert [bool(step.timing) for step in steps] == [False] * (len(steps) - 1) + [True]
    (row,) = steps[-1].history
    assert row.timing.encode_seconds is not None
    assert row.timing.encode_seconds < row.timing.ttft_seconds
    *_, last = handlers.ask("one", heard.clip, "asr", "What is it?", [row], "en")
    assert last.answer == answerer.ask(GOOD, "What is it?")
    assert last.history[1].timing.encode_seconds is None
    assert "reused" in last.timing


def test_mistakes_are_messages(handlers: PageHandlers, tmp_path: Path) -> None:
    bad = handlers.take_audio(make_bad_file(tmp_path), None, "one", "en")
    assert bad.clip is None
    assert 'role="alert"' in bad.note
    assert "notes.txt: cannot be read" in bad.note
    (nothing,) = handlers.ask("one", None, "asr", "", [], "ko")
    assert "오디오가 없습니다" in nothing.note
    clip = take_clip(GOOD, 40)
    for prompt, message in (("<SpeechHere> <SpeechHere>", "2 times"), ("x" * 5000, "characters")):
        (step,) = handlers.ask("one", clip, "asr", prompt, [], "en")
        assert message in step.note
    (step,) = handlers.ask("three", clip, "asr", "", [], "en")
    assert "no model" in step.note


def test_running_out_of_memory_is_a_message(
    handlers: PageHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(Answerer, "hear", fail)
    (step,) = handlers.ask("one", take_clip(GOOD, 40), "asr", "", [], "en")
    assert "no memory left" in step.note


def test_model_that_does_not_load_is_a_message(
    handlers: PageHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers.desk.take("one")

    def refuse(*_: object) -> None:
        raise UserError("missing keys: ln_speech.weight")

    monkeypatch.setattr(Answerer, "from_config", refuse)
    tasks, task, _, note = handlers.change_model("two", None, "asr", "en")
    assert (tasks, task) == (["asr"], "asr")
    assert "missing keys" in note


def test_examples_are_heard_as_they_are(handlers: PageHandlers) -> None:
    assert handlers.examples
    index, (rate_hz, samples), task = handlers.take_example(0)
    assert (index, rate_hz) == (0, 16_000)
    assert samples.dtype == np.int16
    heard = handlers.take_audio("player's own copy.wav", index, "one", "en")
    example = handlers.examples[0]
    assert heard.clip is not None
    assert heard.clip.key == take_clip(example.path, 40).key
    assert task == example.task
    assert example.reference.split()[0] in heard.timing


# Serving


def parse(*flags: str) -> argparse.Namespace:
    config = ["--cfg-path", str(DEV / "config_lora.yaml"), "--options", *OPTIONS]
    return web_demo.build_parser().parse_args([*config, "--device", "cpu", *flags])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"server_name": "127.0.0.1", "server_port": 7860, "share": False}),
        (
            ["--host", "0.0.0.0", "--port", "8080", "--share", "--max-upload-mb", "5"],
            {"server_name": "0.0.0.0", "server_port": 8080, "share": True, "max_file_size": "5mb"},
        ),
    ],
)
def test_page_is_private_unless_asked(
    flags: list[str],
    expected: dict[str, Any],
    handlers: PageHandlers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = Page(handlers)
    launched: dict[str, Any] = {}
    monkeypatch.setattr(
        type(page.blocks), "launch", lambda _, **values: launched.update(values) or (0, "", "")
    )
    monkeypatch.setenv("GRADIO_SHARE", "true")
    web_demo.serve(page, parse(*flags))
    assert {name: launched[name] for name in expected} == expected
    assert page.blocks.analytics_enabled is False
    assert page.blocks.delete_cache is not None  # uploads are deleted while the page goes on


def test_requests_wait_in_one_line(handlers: PageHandlers) -> None:
    blocks = Page(handlers).blocks
    assert blocks._queue.max_size == MAX_WAITING
    in_line = [fn for fn in blocks.fns.values() if fn.concurrency_id == "model"]
    assert len(in_line) == 3
    assert {fn.concurrency_limit for fn in in_line} == {1}
    assert all(fn.api_visibility == "private" for fn in blocks.fns.values())


def test_upload_folder_is_gone_at_the_end() -> None:
    """Also when the process is told to end."""
    program = (
        "import web_demo\n"
        "with web_demo.private_upload_folder() as folder:\n"
        "    print(folder, flush=True)\n    import time; time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program]
    folder = ROOT / "audiolm-trainer"
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        uploads = Path(process.stdout.readline().strip())
        assert uploads.is_dir()
        assert uploads.stat().st_mode & 0o077 == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 128 + signal.SIGTERM
    assert not uploads.exists()


def test_default_needs_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_demo, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"quickstart\.sh"):
        web_demo.main([])


def test_missing_gradio_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *values: Any, **named: Any) -> Any:
        if name == "gradio":
            raise ModuleNotFoundError("No module named 'gradio'")
        return real_import(name, *values, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="pip install gradio"):
        web_demo.main(["--cfg-path", "nowhere.yaml"])


# In the browser


@pytest.fixture
def address(handlers: PageHandlers) -> Iterator[str]:
    """The page, served from a port that was free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with web_demo.private_upload_folder():
        page = Page(handlers)
        yield web_demo.serve(page, parse("--port", str(port)), is_waiting=False)
        page.blocks.close(verbose=False)


def wait_for(browser: webdriver.Chrome, selector: str, text: str = "") -> Any:
    """The first element of that kind that holds the text."""

    def look(_: Any) -> Any:
        found = browser.find_elements(By.CSS_SELECTOR, selector)
        return next((item for item in found if text in (item.text or "")), None)

    wait = WebDriverWait(browser, WAIT_SECONDS, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(look, f"no {selector} with {text!r}")


def upload(browser: webdriver.Chrome, path: str) -> None:
    wait_for(browser, "#audio input[type=file]").send_keys(path)


def read_answer(browser: webdriver.Chrome) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, "#answer textarea").get_property("value"))


@pytest.mark.browser
def test_upload_ask_and_read(browser: webdriver.Chrome, address: str, answerer: Answerer) -> None:
    browser.get(address)
    upload(browser, GOOD)
    wait_for(browser, "#picture svg")
    wait_for(browser, "#ask").click()
    wait_for(browser, "#timing .chips", "first token")
    assert read_answer(browser).strip() == answerer.ask(GOOD)
    wait_for(browser, "#prompt textarea").send_keys("What is it?")
    wait_for(browser, "#ask").click()
    wait_for(browser, "#timing .chips", "reused")
    assert read_answer(browser).strip() == answerer.ask(GOOD, "What is it?")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#history tbody tr")) == 2
    entries = browser.execute_script("return performance.getEntriesByType('resource')")
    names = [entry["name"] for entry in entries]
    assert names
    assert not [name for name in names if not name.startswith((address, "data:", "blob:"))]
    assert not list_page_errors(browser)


@pytest.mark.browser
def test_wrong_file_and_no_file_are_messages(
    browser: webdriver.Chrome, address: str, tmp_path: Path
) -> None:
    browser.get(address)
    wait_for(browser, "#ask").click()
    wait_for(browser, "#note [role=alert]", "There is no clip yet")
    path = tmp_path / "notes.wav"
    path.write_text("this is no audio", encoding="utf-8")
    upload(browser, str(path))
    message = wait_for(browser, "#note [role=alert]", "notes.wav: cannot be read").text
    assert "Traceback" not in message
    assert str(tmp_path) not in message


@pytest.mark.browser
def test_korean_and_an_example_in_a_narrow_window(browser: webdriver.Chrome, address: str) -> None:
    browser.set_window_size(500, 900)
    browser.get(address)
    wait_for(browser, "#language label", "한국어").click()
    wait_for(browser, "#ask", "질문하기")
    wait_for(browser, "#examples button").click()
    wait_for(browser, "#timing .reference", "정답")
    wait_for(browser, "#picture svg")
    wait_for(browser, "#ask").click()
    wait_for(browser, "#timing .chips", "첫 토큰까지")
    widths = browser.execute_script("return [document.body.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]  # nothing is cut off at the side
