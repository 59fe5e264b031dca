"""What all tests share: no network, one torch thread, the recorded stack of `tests/golden.py`, a
browser."""

import os

# Before transformers is imported: nothing is fetched, and forked tokenizers stay quiet.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator

import pytest
import torch
from selenium import webdriver

from audiolm.audio.features import LogMel
from audiolm.evaluation.answering import Answerer
from audiolm.models.salmonn import SALMONN
from audiolm.prompts import PromptBook
from tests.browsing import WINDOW_SIZE, find_browser, list_page_errors, start_browser
from tests.golden import GOLDEN_DIR, Golden

torch.set_num_threads(1)  # the models are tiny, and pytest runs one process per core


@pytest.fixture(scope="session")
def dev() -> Golden:
    """The recordings of the main stack with plain LoRA: Whisper, BEATs, Q-Former, Llama."""
    return Golden("dev", "lora")


@pytest.fixture(scope="session")
def dev_model(dev: Golden) -> SALMONN:
    """The model of `dev` with its trained weights. Shared: tests must not change it."""
    return dev.build_model()


@pytest.fixture(scope="session")
def running_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One headless Chromium for all tests of a process; ask for `browser` instead."""
    found = find_browser()
    if found is None:
        pytest.skip("needs Chromium and chromedriver (Debian: chromium, chromium-driver)")
    browser = start_browser(*found, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(running_browser: webdriver.Chrome) -> webdriver.Chrome:
    """A headless Chromium on an empty page; `browser.get(path.as_uri())` opens a file.

    Mark tests that use it `browser`; without Chromium and chromedriver they are skipped.
    """
    running_browser.get("about:blank")
    running_browser.set_window_size(*WINDOW_SIZE)
    list_page_errors(running_browser)  # an earlier test's
    return running_browser


@pytest.fixture(scope="session")
def book() -> PromptBook:
    """Evaluation prompts of `dev`."""
    return PromptBook.load(GOLDEN_DIR / "dev" / "prompts" / "test_prompt.json")


@pytest.fixture(scope="session")
def answerer(dev_model: SALMONN, book: PromptBook) -> Answerer:
    """`dev_model`, ready for questions; answers have at most six tokens."""
    log_mel = LogMel.from_pretrained(GOLDEN_DIR / "dev" / "components" / "whisper")
    generate_cfg = {"num_beams": 1, "max_new_tokens": 6, "do_sample": False}
    template = "USER: {}\nASSISTANT:"
    return Answerer(dev_model, log_mel, book, template, generate_cfg, torch.device("cpu"))
