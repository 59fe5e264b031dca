"""The two READMEs say the same and tell the truth; the figures are what the script draws."""

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import yaml

from audiolm.config import Config
from audiolm.config_file import flatten, save_config
from audiolm.config_rules import CHOICES
from audiolm.data.annotations import load_annotation
from audiolm.evaluation.submission import MODE_FOLDERS
from audiolm.models.beats import BeatsConfig
from audiolm.models.qformer import Windows
from audiolm.prompts import split_at_marker
from scripts import draw_figures
from scripts.figures.shapes import compute_shapes
from scripts.figures.wording import LANGUAGES, choose_texts
from tests.golden import GOLDEN_DIR, Golden

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.ko.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
# Made by commands, fetched by the user, or to be filled in by the reader.
NOT_IN_REPOSITORY = re.compile(
    r"^(demo|outputs|\w+_results|\.\./models|scenes|\.venv)(/|$)|^submission\.csv$|\bRUN\b|EXP_NAME"
)
WRITTEN_BY_RUNS = {"config.yaml", "log.jsonl", "summary.json", "result.json", "result.md"}
USERS_OWN = {"clotho.json", "old.json", "new.json"}  # in the examples of data commands
SUFFIXES = (".py", ".sh", ".yaml", ".json", ".md", ".svg", ".txt")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def list_blocks(name: str) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in FENCE.finditer(read(name))]


def find_block(name: str, language: str, mark: str) -> str:
    (block,) = [text for kind, text in list_blocks(name) if kind == language and mark in text]
    return block


def drop_comments(block: str) -> list[str]:
    """Lines without what follows a `#`; comments are in each README's own language."""
    lines = [re.sub(r"(^|\s+)#.*$", "", line) for line in block.splitlines()]
    return [line for line in lines if line.strip()]


def drop_blocks(text: str) -> str:
    return FENCE.sub("", text)


def list_headings(name: str) -> list[str]:
    return re.findall(r"^#+ .+$", drop_blocks(read(name)), re.MULTILINE)


def list_commands(name: str) -> list[str]:
    """Command lines of the bash blocks, continued lines joined."""
    blocks = ["\n".join(drop_comments(text)) for kind, text in list_blocks(name) if kind == "bash"]
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


def find_script(command: str) -> Path | None:
    """The repository's script that a command runs."""
    if "-m audiolm.data" in command:
        return ROOT / "audiolm-trainer" / "audiolm" / "data" / "commands"
    scripts = re.findall(r"[\w./-]+\.(?:py|sh)\b", command)
    return ROOT / scripts[0] if scripts else None


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", draw_figures.FIGURES)
def test_figure_is_what_the_script_draws(name: str, language: str) -> None:
    drawn = draw_figures.FIGURES[name](choose_texts(language))
    file = draw_figures.name_file(name, language)
    assert read(f"img/{file}") == drawn, "run scripts/draw_figures.py"
    ElementTree.fromstring(drawn)


def test_check_finds_a_stale_figure(tmp_path: Path) -> None:
    flags = ["--only", "windowing", "-o", str(tmp_path)]
    assert draw_figures.main([*flags, "--check"]) == 1
    assert draw_figures.main(flags) == 0
    assert draw_figures.main([*flags, "--check"]) == 0
    (tmp_path / "windowing.ko.svg").write_text("<svg/>", encoding="utf-8")
    assert draw_figures.main([*flags, "--check"]) == 1


@pytest.mark.parametrize("name", READMES)
def test_every_figure_is_shown_in_its_language(name: str) -> None:
    language = "ko" if ".ko." in name else "en"
    shown = set(re.findall(r"\(img/([\w.]+\.svg)\)", read(name)))
    assert shown == {draw_figures.name_file(figure, language) for figure in draw_figures.FIGURES}


def test_figure_shows_the_models_own_lengths() -> None:
    """The script counts by itself, from constants in the sources; the models agree."""
    from audiolm.audio.features import num_fbank_frames

    shapes, model = compute_shapes(10), Config().model
    windows = Windows.from_seconds(model.second_per_window, model.second_stride)
    assert shapes.num_fbank_frames == num_fbank_frames(160_000)
    size = BeatsConfig().input_patch_size
    frames = torch.zeros(1, 1, shapes.num_fbank_frames, shapes.num_fbank_bins)
    patches = torch.nn.functional.unfold(frames, size, stride=size)
    assert shapes.num_patches == patches.shape[-1]
    assert shapes.beats_width == BeatsConfig().encoder_embed_dim
    assert shapes.window_frames == windows.length
    assert shapes.num_windows_fixed == windows.count(1500)
    assert shapes.num_windows_real == int(windows.count_real(torch.tensor([500]), 1500))


@pytest.mark.parametrize("name", READMES)
def test_audio_tokens_of_both_modes(name: str) -> None:
    windows = Windows.from_seconds(Config().model.second_per_window, Config().model.second_stride)
    light = windows.count_real(torch.tensor([50, 500, 1500]), 1500).tolist()
    fixed = [windows.count(1500)] * 3
    row = f"| {', '.join(map(str, fixed))} | {', '.join(map(str, light))} |"
    assert row in read(name)


@pytest.mark.parametrize("name", READMES)
def test_troubles_are_errors_that_exist(name: str) -> None:
    section = re.split(r"^## (?:Troubleshooting|문제 해결)$", read(name), flags=re.MULTILINE)[1]
    texts = re.findall(r"^\| `([^`]+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert len(texts) >= 10
    sources = [*(ROOT / "audiolm-trainer").rglob("*.py"), *ROOT.glob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert not [text for text in texts if text not in code]


def test_citation_file_names_what_the_readmes_cite() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    cited = {entry["url"].rpartition("/")[2] for entry in citation["references"]}
    for name in READMES:
        assert set(re.findall(r"arXiv:(\d+\.\d+)", read(name))) == cited
    assert f'__version__ = "{citation["version"]}"' in read("audiolm-trainer/audiolm/__init__.py")


def test_readmes_have_the_same_structure() -> None:
    levels = [[heading.partition(" ")[0] for heading in list_headings(name)] for name in READMES]
    assert levels[0] == levels[1]
    tables = [re.findall(r"^\|", drop_blocks(read(name)), re.MULTILINE) for name in READMES]
    assert len(tables[0]) == len(tables[1])


def test_readmes_have_the_same_blocks() -> None:
    english, korean = (
        [(kind, drop_comments(text)) for kind, text in list_blocks(name)] for name in READMES
    )
    assert english == korean


@pytest.mark.parametrize("name", READMES)
def test_readme_keeps_its_places_for_results(name: str) -> None:
    for place in ("quickstart-output", "results"):
        found = re.findall(rf"<!-- {place} -->\n(.+?)\n<!-- /{place} -->", read(name), re.DOTALL)
        assert len(found) == 1, place
    (output,) = re.findall(
        r"<!-- quickstart-output -->\n(.+?)\n<!-- /quickstart-output -->", read(name), re.DOTALL
    )
    assert len(FENCE.findall(output)) == 1


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", drop_blocks(read(name)))
    assert (set(READMES) - {name}).pop() in links
    for link in links:
        file, _, anchor = link.partition("#")
        assert (ROOT / file).exists(), link
        assert not anchor or anchor in list_anchors(file or name), link


def list_anchors(name: str) -> set[str]:
    """What a link may name after its `#`."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")
        for heading in list_headings(name)
    }


@pytest.mark.parametrize("name", READMES)
def test_named_files_exist(name: str) -> None:
    words = {word for text in INLINE.findall(drop_blocks(read(name))) for word in text.split()}
    words |= {word for command in list_commands(name) for word in command.split()}
    paths = {word for word in words - {*SUFFIXES} if word.endswith(SUFFIXES) and "*" not in word}
    paths = (
        {path for path in paths if not NOT_IN_REPOSITORY.search(path)} - WRITTEN_BY_RUNS - USERS_OWN
    )
    assert len(paths) > 10
    places = (ROOT, ROOT / "scripts")  # a script may be spoken of by its name alone
    missing = [path for path in paths if not any((place / path).is_file() for place in places)]
    assert not missing


@pytest.mark.parametrize("name", READMES)
def test_tree_entries_exist(name: str) -> None:
    folder, entries = ROOT, []
    folders = {0: ROOT}
    for line in drop_comments(find_block(name, "text", "audiolm-trainer/")):
        depth = (len(line) - len(line.lstrip())) // 2
        folder = folders[depth] / line.strip()
        folders[depth + 1] = folder
        entries.append(folder)
        assert folder.is_dir() if line.endswith("/") else folder.is_file(), line
    scripts = {path for path in (ROOT / "scripts").iterdir() if path.suffix in {".py", ".sh"}}
    configs = set((ROOT / "configs").glob("*.yaml"))
    top_level = set(ROOT.glob("*.py"))
    rooms = {path.parent for path in (ROOT / "audiolm-trainer/audiolm").glob("*/__init__.py")}
    sourced = {ROOT / "scripts" / "environment.sh"}  # not a command
    assert (scripts - sourced) | configs | top_level | rooms <= set(entries)


@pytest.mark.parametrize("name", READMES)
def test_commands_have_the_flags_they_are_given(name: str) -> None:
    known, num_scripts = flatten(Config()), 0
    for command in list_commands(name):
        script = find_script(command)
        if script is None:
            continue
        num_scripts += 1
        if script.is_dir():  # the data commands: a module for each
            files, own = sorted(script.glob("*.py")), command.partition("audiolm.data")[2]
        else:
            files, own = [script], command.partition(script.name)[2]
        source = "\n".join(file.read_text(encoding="utf-8") for file in files)
        for flag in re.findall(r"--([\w-]+)", own):
            assert re.search(rf'["-]{flag}"', source), f"{command}: --{flag}"
        words = own.partition("--options")[2].split()
        for key in re.findall(r"\w+(?:\.\w+)+(?==)", " ".join(words)):
            assert key in known, f"{command}: {key}"
    assert num_scripts > 15


@pytest.mark.parametrize("name", READMES)
def test_named_options_exist(name: str) -> None:
    known = flatten(Config())
    named = re.findall(r"`((?:model|datasets|run|generate)\.\w+)", drop_blocks(read(name)))
    assert len(named) > 15
    assert not [key for key in named if key not in known]
    short = {key.rpartition(".")[2]: allowed for key, allowed in CHOICES.items()}
    pairs = re.findall(r"`(?:\w+\.)?(\w+): (\w+)`", read(name))
    assert pairs
    assert not [(key, value) for key, value in pairs if value not in short[key]]
    modes = set(re.findall(r"\b(?:submission|valid)_(?:asr|aac)\b", read(name)))
    assert modes == set(MODE_FOLDERS)


@pytest.mark.parametrize("name", READMES)
def test_formats_are_as_shown(name: str, tmp_path: Path) -> None:
    path = tmp_path / "annotation.json"
    path.write_text(find_block(name, "json", "annotation"), encoding="utf-8")
    clips = load_annotation(path, require_text=True)
    assert [len(clip.texts) for clip in clips] == [1, 2, 1]
    assert clips[2].question
    assert clips[2].expand_wav
    assert clips[2].seconds == 7.5
    (prompt,) = re.findall(r'`"asr": (".*?")`', read(name))
    split_at_marker(json.loads(prompt))
    weights = yaml.safe_load(read("configs/train_stage1.yaml"))["model"]
    for key in ("whisper_path", "beats_path", "llama_path"):
        assert f"| `model.{key}` | `{weights[key]}` |" in read(name)


def test_five_lines_run(dev: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_path = tmp_path / "config.yaml"
    save_config(dev.config, config_path)
    snippet = find_block("README.md", "python", "load_model")
    replacements = {
        '"configs/nano_eval.yaml"': repr(str(config_path)),
        '"demo/runs/RUN/checkpoint_best.pth"': repr(dev.config.model.ckpt),
        '"audiocaption_v2"': '"audiocaption"',  # as the recorded prompts call it
        '"clip.wav"': repr(str(GOLDEN_DIR / "dev" / "audio" / "a.wav")),
    }
    for shown, used in replacements.items():
        assert shown in snippet
        snippet = snippet.replace(shown, used)
    exec(compile(snippet, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_library_snippet_runs(
    dev: Golden,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the recorded stack in place of the nano one."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # the snippet adds to it
    config_path = tmp_path / "config.yaml"
    config = copy.deepcopy(dev.config)
    config.datasets.test_ann_path_asr = config.datasets.test_ann_path
    save_config(config, config_path)
    snippet = find_block("README.md", "python", "SALMONN.from_config")
    replacements = {
        '"configs/nano_eval.yaml"': repr(str(config_path)),
        '"demo/runs/RUN/checkpoint_best.pth"': repr(config.model.ckpt),
    }
    for shown, used in replacements.items():
        assert snippet.count(shown) == 1
        snippet = snippet.replace(shown, used)
    names: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert len(names["texts"]) == 4
    assert names["embeds"].shape[:2] == names["atts"].shape
    wer_line, scores_line = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"WER [\d.]+% of \d+ words, loss [\d.]+", wer_line)
    assert "cider_d" in scores_line
