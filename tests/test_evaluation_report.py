"""The report: alignment, one self-contained file, and a browser that sorts, filters and plays."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select, WebDriverWait

from audiolm.evaluation.alignment import align_texts, align_tokens, format_alignment
from audiolm.evaluation.outcome import rescore
from audiolm.evaluation.predictions import Prediction, save_predictions
from audiolm.evaluation.report import ReportOptions
from audiolm.evaluation.tasks import CAPTIONS, CHARACTERS, TRANSCRIPTS
from tests.browsing import list_page_errors

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
    assert "Below: of 9 clips the 3 with the most errors or the lowest scores." in page


def list_shown(browser: WebDriver) -> list[int]:
    """The clips in the table, by their place in the predictions."""
    rows = "document.querySelectorAll('#rows tbody tr')"
    return browser.execute_script(f"return [...{rows}].map(row => Number(row.dataset.n))")


def wait_for(browser: WebDriver, what: Callable[[WebDriver], Any]) -> Any:
    return WebDriverWait(browser, 60, poll_frequency=0.05).until(what)


@pytest.mark.browser
@pytest.mark.slow
def test_browser_sorts_filters_and_plays(tmp_path, browser):
    """At 5,000 clips, opened from disk, by clicks and keys alone."""
    browser.get(make_report(tmp_path, 5000).as_uri())
    count = browser.find_element(By.ID, "count")
    assert count.text == "5000 of 5000 clips"
    assert len(list_shown(browser)) == 100  # of 5,000: the rest comes with scrolling
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    wait_for(browser, lambda b: len(list_shown(b)) == 200)

    header = browser.find_element(By.CSS_SELECTOR, "th[data-key=seconds]")
    header.find_element(By.TAG_NAME, "button").click()
    assert list_shown(browser)[:3] == [4999, 4998, 4997]
    assert header.get_attribute("aria-sort") == "descending"
    header.find_element(By.TAG_NAME, "button").click()
    assert list_shown(browser)[:3] == [1, 0, 2]  # clip 1 has no length
    assert header.get_attribute("aria-sort") == "ascending"

    search = browser.find_element(By.CSS_SELECTOR, "#controls input[type=search]")
    search.send_keys("word NUMBER 42")
    wait_for(browser, lambda _: count.text != "5000 of 5000 clips")
    found = browser.find_elements(By.CSS_SELECTOR, "#rows tbody tr")
    assert 0 < len(found) <= 100
    assert all("42" in row.text for row in found[:5])
    search.send_keys(Keys.CONTROL + "a", Keys.DELETE)
    wait_for(browser, lambda _: count.text == "5000 of 5000 clips")
    endings = Select(browser.find_element(By.CSS_SELECTOR, "select[aria-label=endings]"))
    endings.select_by_value("looping")
    assert list_shown(browser) == [1]
    endings.select_by_value("")
    browser.find_element(By.ID, "wrong").click()
    assert count.text == "4999 of 5000 clips"  # clip 1 alone is right

    browser.find_element(By.CSS_SELECTOR, "th[data-key=id] button").click()
    audio = browser.find_element(By.TAG_NAME, "audio")
    left_edge = -audio.size["width"] // 2
    ActionChains(browser).move_to_element_with_offset(audio, left_edge + 16, 0).click().perform()
    wait_for(browser, lambda _: audio.get_property("currentTime") > 0)
    assert audio.get_property("duration") == pytest.approx(1.0, abs=0.05)
    assert "owned" not in browser.title
    assert list_page_errors(browser) == []
