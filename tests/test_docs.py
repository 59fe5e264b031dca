"""The documentation tells the truth: its links lead somewhere, and its runnable blocks run.

A block that follows `<!-- runnable -->` is run as it stands, in a folder like the repository's root
but with miniature corpora, tiny random weights, and short training in the shipped configurations.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from audiolm.models.random_stack import TINY, build_random_stack
from tests.corpora import write_audio, write_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
RUNNABLE = re.compile(r"^<!-- runnable -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED_CODE = re.compile(r"^(?: {4}.*\n?)+", re.MULTILINE)
CHANGE_OR_TRY = re.compile(
    r"^<!-- (?:change (?P<file>\S+)|try) -->\n```(?:diff|python)\n(?P<block>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
STAGES = ("train_stage1.yaml", "train_stage2.yaml")
LINKED = ("audiolm-trainer", "scripts", "docs")
WORDS = ("A DOOR OPENS SLOWLY", "THE RAIN FALLS", "SHE SAID NOTHING MORE", "THREE SMALL BOATS")


def name_page(path: Path) -> str:
    return str(path.relative_to(ROOT))


def list_anchors(page: Path) -> set[str]:
    """Of headings, by the rule of the sites that show them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_dead_links(page: Path) -> list[str]:
    prose = INDENTED_CODE.sub("", FENCE.sub("", page.read_text("utf-8")))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_alive = target.exists() and (
            not anchor or target.suffix != ".md" or anchor in list_anchors(target)
        )
        if not is_alive:
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_links_lead_somewhere(page: Path) -> None:
    assert not find_dead_links(page)


def test_dead_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](#a-heading) [b](#b) [c](missing.md) [d](page.md#a-heading)\n")
    assert find_dead_links(page) == ["#b", "missing.md"]


def test_every_page_can_be_reached() -> None:
    """From the READMEs, in any number of steps."""
    reached, waiting = set(), [ROOT / "README.md", ROOT / "README.ko.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in re.findall(r"\]\(([^)\s#]+\.md)", FENCE.sub("", page.read_text("utf-8"))):
            waiting.append((page.parent / link).resolve())
    assert not [name_page(page) for page in PAGES if page not in reached]


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """Like the repository's root, with corpora, weights and configurations of the smallest size."""
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    for path in ROOT.glob("*.py"):  # copies: they look for the default configuration beside them
        shutil.copy(path, tmp_path)
    write_corpora(tmp_path / "data")
    stack = build_random_stack(
        tmp_path / "models", TINY, texts=[words.lower() for words in WORDS], seed=0
    )
    (tmp_path / "configs").mkdir()
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        shutil.copy(path, tmp_path / "configs")
    shutil.copytree(ROOT / "configs" / "models", tmp_path / "configs" / "models")
    for name in (*STAGES, "salmonn_eval_config.yaml"):
        path = tmp_path / "configs" / name
        config = yaml.safe_load(path.read_text("utf-8"))
        shrink(config, {key: str(value) for key, value in vars(stack).items()})
        path.write_text(yaml.safe_dump(config), "utf-8")
    return tmp_path


def write_corpora(folder: Path) -> None:
    """LibriSpeech and AudioCaps as they are unpacked, a few seconds of each."""
    for seed, part in enumerate(("train-clean-100", "dev-clean", "test-other")):
        chapter = folder / "LibriSpeech" / part / str(seed + 1) / "7"
        lines = []
        for number, words in enumerate(WORDS):
            name = f"{seed + 1}-7-{number:04d}"
            write_audio(chapter / f"{name}.flac", 1 + 0.3 * number, seed=10 * seed + number)
            lines.append(f"{name} {words} {part.replace('-', ' ').upper()}\n")
        (chapter / f"{seed + 1}-7.trans.txt").write_text("".join(lines), "utf-8")
    header = ("audiocap_id", "youtube_id", "start_time", "caption")
    for seed, part in enumerate(("train", "val", "test")):
        rows = []
        for number in range(3):
            video = f"{part}_video_{number}"
            write_audio(folder / "audiocaps" / part / f"{video}.wav", seed=100 * seed + number + 50)
            for way in range(5 if part == "test" else 1):
                rows.append((len(rows), video, 30, f"A {part} bell {number} rings, way {way}"))
        write_table(folder / "audiocaps" / f"{part}.csv", header, rows)


def shrink(config: dict[str, Any], paths: dict[str, str]) -> None:
    """The same configuration at a size that a test can wait for."""
    small = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "num_layers": 1}
    config["model"] |= {**paths, "qformer": small}
    config["run"] |= {"device": "cpu", "num_workers": 0, "batch_size_eval": 4}
    if "optims" in config["run"]:
        config["run"] |= {"iters_per_epoch": 2, "batch_size_train": 2}
        config["run"]["optims"] |= {"max_epoch": 1, "warmup_steps": 1}
    if "generate" in config:
        config["generate"] |= {"max_new_tokens": 5, "num_beams": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if RUNNABLE.search(p.read_text())], ids=name_page
)
def test_runnable_blocks_run(page: Path, workshop: Path) -> None:
    """All of a page's blocks, in their order, in one shell."""
    script = "\n".join(RUNNABLE.findall(page.read_text("utf-8")))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("RANK", "PYTHONPATH"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-x", "-c", script],
        cwd=workshop,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.stdout[-3000:], result.stderr[-3000:])
    assert result.stdout.count("Validation passed") == 2 or page.name != "tutorial.md"


def apply_change(path: Path, diff: str) -> None:
    """Lines with - become those with +; they and the lines around them stand in the file once."""
    lines = diff.splitlines()
    before = "\n".join(line[1:] for line in lines if line[:1] != "+")
    after = "\n".join(line[1:] for line in lines if line[:1] != "-")
    text = path.read_text("utf-8")
    assert text.count(f"\n{before}") == 1, f"{path.name} does not hold, once:\n{before}"
    path.write_text(text.replace(f"\n{before}", f"\n{after}"), "utf-8")


def list_examples() -> dict[str, list[tuple[str, str]]]:
    """Heading -> (file to change or "", block) in order, of the page on architecture."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    sections = re.split(r"^### ", text.partition("## Worked examples")[2], flags=re.MULTILINE)[1:]
    return {
        section.splitlines()[0]: [
            (match["file"] or "", match["block"]) for match in CHANGE_OR_TRY.finditer(section)
        ]
        for section in sections
    }


@pytest.mark.parametrize("heading", list(list_examples()))
def test_worked_examples_work(heading: str, tmp_path: Path) -> None:
    """In a copy of the package, each change applied and each piece of code run."""
    shutil.copytree(ROOT / "audiolm-trainer" / "audiolm", tmp_path / "audiolm")
    blocks = list_examples()[heading]
    assert any(file for file, _ in blocks)
    assert any(not file for file, _ in blocks)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "CONFIG": str(ROOT / "tests" / "data" / "golden" / "dev" / "config_lora.yaml"),
        "OMP_NUM_THREADS": "1",
    }
    for file, block in blocks:
        if file:
            apply_change(tmp_path / file, block)
            continue
        result = subprocess.run(
            [sys.executable, "-c", block], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-2000:]
