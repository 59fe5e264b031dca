"""The report: alignment, one self-contained file, and a browser that sorts, filters and plays."""

import json
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiolm.evaluation.alignment import align_texts, align_tokens, format_alignment
from audiolm.evaluation.outcome import rescore
from audiolm.evaluation.predictions import Prediction, save_predictions
from audiolm.evaluation.report import ReportOptions
from audiolm.evaluation.tasks import CAPTIONS, CHARACTERS, TRANSCRIPTS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
BAD_TEXT = "</script><script>document.title='owned'</script> & \u2028 <b>bold</b>"


def test_alignment_of_words():
    steps = align_tokens("cat sat up on her mat".split(), "the cat sat on my mat".split())
    assert steps == [
        ("d", "the", ""), ("=", "cat sat", "cat sat"), ("i", "", "up"), ("=", "on", "on"),
        ("s", "my", "her"), ("=", "mat", "mat"),
    ]  # fmt: skip
    above, below = format_alignment(steps)
    assert above == "THE cat sat ** on MY  mat"
    assert below == "*** cat sat UP on HER mat"


def test_alignment_is_of_what_is_scored():
    assert align_texts(TRANSCRIPTS, "It's twenty five.", ["IT IS 25"]) == [
        ("=", "it is 25", "it is 25")
    ]
    assert align_texts(CHARACTERS, "세계", ["세상"])[1][0] == "s"
    assert align_texts(CAPTIONS, "A dog sings", ["dog barks", "a cat"]) == [
        ("=", "", "a dog"),
        ("i", "", "sings"),
    ]


def write_evaluation(folder: Path, num_clips: int) -> Path:
    """Saved predictions, the last with audio, one with markup for text."""
    audio = folder / "audio"
    audio.mkdir(parents=True)
    soundfile.write(audio / "0.wav", 0.1 * np.sin(np.arange(16000) / 20), 16000)
    rows = [
        Prediction(
            i, f"{i}.wav", None, "asr", "", f"word number {i % 97} is here", audio_seconds=1.0 + i,
            references=[f"word number {i % 89} was here"], stop_reason="end_token", num_tokens=4,
        )
        for i in range(num_clips)
    ]  # fmt: skip
    rows[1] = Prediction(1, "1.wav", None, "asr", "", BAD_TEXT, [BAD_TEXT], stop_reason="looping")
    save_predictions(folder / "predictions.jsonl", rows)
    card = {"mode": "valid_asr", "seed": 0, "config": {"datasets": {"prefix": str(audio)}}}
    (folder / "run.json").write_text(json.dumps(card))
    return folder


def make_report(tmp_path: Path, num_clips: int, **options: int) -> Path:
    source = write_evaluation(tmp_path / "saved evaluation", num_clips)
    report = ReportOptions(**options)  # type: ignore[arg-type]
    return rescore(source, root=tmp_path / "out", report=report).folder / "report.html"


def test_page_needs_nothing_else(tmp_path):
    page = make_report(tmp_path, 5).read_text(encoding="utf-8")
    assert not re.search(r"https?://", page)
    assert not re.search(r"<(?:link|img|iframe)\b|@import|src=\"http", page)
    assert "saved%20evaluation/audio/0.wav" in page  # linked, relative to the page
    assert "</script><script>document.title" not in page
    assert page.count("<script") == 2


def test_audio_is_embedded_on_request(tmp_path):
    page = make_report(tmp_path, 5, num_embedded=5).read_text(encoding="utf-8")
    assert page.count("data:audio/") == 1  # the other files are not there
    assert "audio/0.wav" not in page


def test_no_report_when_none_is_wanted(tmp_path):
    assert not make_report(tmp_path, 5, is_wanted=False).exists()


def test_large_sets_show_the_worst(tmp_path, monkeypatch):
    monkeypatch.setattr("audiolm.evaluation.report.MAX_ROWS", 3)
    page = make_report(tmp_path, 9).read_text(encoding="utf-8")
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page)[1])  # type: ignore
    assert len(data["rows"]) == 3
    assert all(row["errors"] > 0 for row in data["rows"])
    assert "The 3 clips with the most errors of 9 are below." in page


PROBE = """
const found = {}, wait = ms => new Promise(done => setTimeout(done, ms));
const ids = () => [...document.querySelectorAll("#rows tbody tr")].map(r => Number(r.dataset.n));
(async () => {
  found.first = ids();
  const time = performance.now();
  const click = key => document.querySelector(`th[data-key=${key}] button`).click();
  click("seconds"); found.longest = ids().slice(0, 3);
  click("seconds"); found.shortest = ids().slice(0, 3);
  found.sort = document.querySelector("th[data-key=seconds]").getAttribute("aria-sort");
  found.sortMs = (performance.now() - time) / 2;
  const box = document.querySelector("#controls input[type=search]");
  box.value = "word NUMBER 42"; box.dispatchEvent(new Event("input")); await wait(400);
  found.filtered = document.getElementById("count").textContent;
  found.rows = ids().length;
  box.value = ""; box.dispatchEvent(new Event("input"));
  const ending = document.querySelectorAll("#controls select")[1];
  ending.value = "looping"; ending.dispatchEvent(new Event("change")); await wait(400);
  found.looping = ids();
  ending.value = ""; ending.dispatchEvent(new Event("change"));
  click("id"); await wait(50);
  const audio = document.querySelector("audio");
  try { await audio.play(); await wait(300); found.playing = !audio.paused; }
  catch (error) { found.playing = String(error); }
  found.seconds = audio.duration;
  found.title = document.title;
  found.errors = window.failures;
})().catch(e => { found.failed = String(e); }).finally(() =>
  fetch("ADDRESS", {method: "POST", mode: "no-cors", body: JSON.stringify(found)}));
"""


@pytest.fixture
def listener() -> Iterator[tuple[str, queue.Queue[Any]]]:
    """An address that takes JSON, and what it was sent."""
    received: queue.Queue[Any] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            received.put(json.loads(self.rfile.read(size)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_browser_sorts_filters_and_plays(tmp_path, listener):
    """At 5,000 clips, opened from disk."""
    address, received = listener
    path = make_report(tmp_path, 5000)
    page = path.read_text(encoding="utf-8")
    catch = "<script>window.failures=[];window.onerror=m=>{failures.push(m)};</script>"
    script = PROBE.replace("ADDRESS", address)
    probed = path.with_name("probed.html")
    probed.write_text(
        page.replace("<main>", f"{catch}<main>").replace("</body>", f"<script>{script}</script>"),
        encoding="utf-8",
    )
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio",
        "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={tmp_path / 'profile'}",
        probed.as_uri(),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            found = received.get(timeout=240)
        finally:
            browser.terminate()
    assert found["errors"] == []
    assert "failed" not in found
    assert len(found["first"]) == 100  # of 5,000: the rest comes with scrolling
    assert found["longest"] == [4999, 4998, 4997]
    assert found["shortest"] == [1, 0, 2]  # clip 1 has no length
    assert found["sort"] == "ascending"
    assert found["sortMs"] < 5000  # some 30 ms here; a page that hangs takes minutes
    assert re.fullmatch(r"\d+ of 5000 clips", found["filtered"])
    assert 0 < found["rows"] <= 100
    assert found["looping"] == [1]
    assert found["playing"] is True
    assert found["seconds"] == pytest.approx(1.0, abs=0.05)
    assert "owned" not in found["title"]
