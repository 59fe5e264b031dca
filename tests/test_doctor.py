"""The doctor finds each seeded problem, and nothing to fix where all is well."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import train as train_script
from safetensors.torch import load_file, save_file

from audiolm.config_file import build_config
from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint, save_checkpoint
from audiolm.models.random_stack import TINY, StackPaths, build_random_stack
from audiolm.models.salmonn import SALMONN
from audiolm.training import doctor, doctor_machine
from audiolm.training.doctor_models import hash_ends

ROOT = Path(__file__).resolve().parents[1]
SIZES_DIR = ROOT / "configs" / "models"
QFORMER = {"hidden_size": 32, "num_heads": 4, "intermediate_size": 64}
PROMPT = "<Speech><SpeechHere></Speech> Write it down."


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> StackPaths:
    folder = tmp_path_factory.mktemp("stack")
    return build_random_stack(folder, TINY, texts=["a b c write it down"], seed=0)


@pytest.fixture
def content(stack: StackPaths, tmp_path: Path) -> dict[str, Any]:
    """A configuration with which all is well, in a folder of its own."""
    soundfile.write(tmp_path / "a.wav", torch.zeros(16_000).numpy(), 16_000)
    write_json(tmp_path / "train.json", {"annotation": [{"path": "a.wav", "text": "a"}]})
    write_json(tmp_path / "prompts.json", {"asr": [PROMPT]})
    paths = {name: str(path) for name, path in vars(stack).items()}
    return {
        "model": {**paths, "qformer": QFORMER, "prompt_path": str(tmp_path / "prompts.json")},
        "datasets": {
            "prefix": str(tmp_path),
            "train_ann_path": str(tmp_path / "train.json"),
            "valid_ann_path": str(tmp_path / "train.json"),
        },
        "run": {"device": "cpu", "output_dir": str(tmp_path / "runs"), "num_workers": 0},
    }


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def find_problems(content: dict[str, Any], check_metrics: Any = lambda names: None) -> list[str]:
    surroundings = doctor.Surroundings(SIZES_DIR, (), check_metrics)
    findings = doctor.examine(build_config(content), surroundings)
    assert all("\n" not in finding.text for finding in findings)
    return [f"{f.topic}: {f.text}" for f in findings if f.mark == "problem"]


def assert_found(problems: Sequence[str], *words: str) -> None:
    assert any(all(word in line for word in words) for line in problems), problems


def test_a_healthy_configuration(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_json(tmp_path / "config.yaml", content)
    before = sorted(tmp_path.iterdir())
    status = train_script.main(["--cfg-path", str(tmp_path / "config.yaml"), "--doctor"])
    shown = capsys.readouterr().out
    assert status == 0, shown
    assert shown.endswith("everything is ready\n")
    for topic in ("device", "packages", "metrics", "mel bins", "BEATs", "tokenizer", "disk"):
        assert f"{topic}:" in shown, topic
    assert sorted(tmp_path.iterdir()) == before  # it writes nothing


def test_problems_end_with_status_2_and_are_all_told(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content["model"]["beats_path"] = "no/such/BEATs_iter3.pt"
    content["datasets"]["train_ann_path"] = "no/such/train.json"
    write_json(tmp_path / "config.yaml", content)
    status = train_script.main(["--cfg-path", str(tmp_path / "config.yaml"), "--doctor"])
    shown = capsys.readouterr().out
    assert status == 2
    assert "2 problems to fix" in shown
    assert "model.beats_path: nothing at no/such/BEATs_iter3.pt" in shown
    assert "datasets.train_ann_path: nothing at no/such/train.json" in shown


def copy_stack(content: dict[str, Any], stack: StackPaths, option: str, folder: Path) -> Path:
    place = folder / option
    source = Path(vars(stack)[option])
    shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place)
    content["model"][option] = str(place)
    return place


def test_other_mel_bins(content: dict[str, Any], stack: StackPaths, tmp_path: Path) -> None:
    place = copy_stack(content, stack, "whisper_path", tmp_path)
    settings = json.loads((place / "preprocessor_config.json").read_text())
    write_json(place / "preprocessor_config.json", {**settings, "feature_size": 128})
    assert_found(find_problems(content), "128 mel bins", "80", "datasets.whisper_path")


def test_a_file_that_is_no_beats_file(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(b"not a torch file")
    content["model"]["beats_path"] = str(tmp_path / "other.pt")
    assert_found(find_problems(content), "BEATs: ", "cannot read", "other.pt")


def test_a_tokenizer_of_another_model(
    content: dict[str, Any], stack: StackPaths, tmp_path: Path
) -> None:
    place = copy_stack(content, stack, "llama_path", tmp_path)
    config = json.loads((place / "config.json").read_text())
    write_json(place / "config.json", {**config, "vocab_size": 100})
    assert_found(find_problems(content), "tokenizer: ", "100 rows", "another model")


def test_weights_of_another_width(
    content: dict[str, Any], stack: StackPaths, tmp_path: Path
) -> None:
    place = copy_stack(content, stack, "llama_path", tmp_path) / "model.safetensors"
    weights = load_file(place)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name][:, :-2].contiguous()
    save_file(weights, place, metadata={"format": "pt"})
    assert_found(find_problems(content), "model weights: ", name, "does not fit")


def test_a_download_that_was_cut_off(
    content: dict[str, Any], stack: StackPaths, tmp_path: Path
) -> None:
    place = copy_stack(content, stack, "whisper_path", tmp_path) / "model.safetensors"
    place.write_bytes(place.read_bytes()[:-1000])
    assert_found(find_problems(content), "damaged or cut short", "download it again")


def test_a_missing_shard(content: dict[str, Any], stack: StackPaths, tmp_path: Path) -> None:
    place = copy_stack(content, stack, "llama_path", tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    write_json(place / "model.safetensors.index.json", index)
    assert_found(find_problems(content), "lacks model-00002.safetensors")


def test_a_checkpoint_of_another_width(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "trained.pth"
    wide = {**content["model"], "qformer": {**QFORMER, "intermediate_size": 96}}
    save_checkpoint(path, SALMONN.from_config(build_config({"model": wide}).model))
    content["model"]["ckpt"] = str(path)
    problems = find_problems(content)
    assert_found(problems, "trained weights: ", "intermediate_size", "96 in the file", "64")

    save_checkpoint(path, SALMONN.from_config(build_config(content | {"model": {
        **content["model"], "ckpt": ""}}).model))  # fmt: skip
    assert not find_problems(content)
    assert read_checkpoint(path)["model"]  # still there


def test_a_missing_task(content: dict[str, Any], tmp_path: Path) -> None:
    row = {"path": "a.wav", "text": "a", "task": "gender"}
    write_json(tmp_path / "train.json", {"annotation": [row]})
    assert_found(
        find_problems(content),
        "prompts: ",
        "train.json: annotation[0]",
        "no prompt for task 'gender'",
    )


def test_an_annotation_that_does_not_parse(content: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "train.json", {"annotation": [{"path": "a.wav"}]})
    assert_found(find_problems(content), "datasets.train_ann_path", '"text" is missing')


def test_missing_audio(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.wav").unlink()
    assert_found(find_problems(content), "1 of 1 audio files are not there", "datasets.prefix")


def test_formats_that_need_ffmpeg(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.m4a").write_bytes(b"")
    write_json(tmp_path / "train.json", {"annotation": [{"path": "a.m4a", "text": "a"}]})
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert_found(find_problems(content), ".m4a files need ffmpeg", "install it")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert not find_problems(content)


def test_unset_paths(content: dict[str, Any]) -> None:
    content["model"]["prompt_path"] = content["datasets"]["valid_ann_path"] = ""
    problems = find_problems(content)
    assert_found(problems, "model.prompt_path is not set")
    assert_found(problems, "datasets.valid_ann_path is not set")


def test_a_gpu_that_is_not_there(content: dict[str, Any]) -> None:
    content["run"]["device"] = "cuda:99"
    assert_found(find_problems(content), "device: run.device: cuda:99 is not there")


def test_too_little_memory(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure_memory", lambda device: 2**20)
    assert_found(find_problems(content), "memory: training needs", "--plan shows")


def test_a_full_disk(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert_found(find_problems(content), "disk: ", "set run.output_dir to another disk")


def test_an_output_folder_that_cannot_be_made(content: dict[str, Any], tmp_path: Path) -> None:
    content["run"]["output_dir"] = str(tmp_path / "a.wav" / "runs")
    assert_found(find_problems(content), "disk: ", "cannot be written")


def test_packages_against_their_bounds(tmp_path: Path) -> None:
    lines = ["torch>=1  # found", "numpy<1", "no-such-package-here>=2", "x>1; python_version<'3'"]
    path = tmp_path / "requirements.txt"
    path.write_text("\n".join(["-r other.txt", "", *lines]), encoding="utf-8")
    first, second = doctor_machine.check_packages([path])
    assert "numpy" in first.text
    assert 'pip install "numpy<1"' in first.text
    assert "no-such-package-here is missing" in second.text


def test_the_teacher_of_a_distillation(
    content: dict[str, Any], stack: StackPaths, tmp_path: Path
) -> None:
    """One that fits; then weights of another size, another vocabulary, a checkpoint that is gone,
    and options that do not go together."""
    trained = tmp_path / "trained.pth"
    model = {name: value for name, value in content["model"].items() if name != "prompt_path"}
    save_checkpoint(trained, SALMONN.from_config(build_config({"model": model}).model))
    path = tmp_path / "teacher.yaml"
    write_json(path, {"model": {**model, "ckpt": str(trained)}})
    content["run"]["distil"] = {"teacher": str(path)}
    assert not find_problems(content)
    surroundings = doctor.Surroundings(SIZES_DIR, (), lambda names: None)
    shown = doctor.format_findings(doctor.examine(build_config(content), surroundings))
    assert "teacher: its model.ckpt: " in shown
    assert "entries of the vocabulary are the student's" in shown

    content["run"]["distil"]["top_k"] = 10**6
    assert_found(find_problems(content), "teacher: run.distil.top_k: 1000000 is not below")
    content["run"]["distil"]["top_k"] = 0
    wide = {**model, "ckpt": str(trained), "qformer": {**QFORMER, "intermediate_size": 96}}
    write_json(path, {"model": wide})
    assert_found(find_problems(content), "teacher: ", "intermediate_size", "64 in the file")
    other = copy_stack({"model": {}}, stack, "llama_path", tmp_path)
    tokens = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[10:12]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    write_json(other / "tokenizer.json", tokens)
    write_json(path, {"model": {**model, "ckpt": str(trained), "llama_path": str(other)}})
    assert_found(find_problems(content), "teacher: ", "another vocabulary")
    write_json(path, {"model": {**model, "ckpt": str(tmp_path / "gone.pth")}})
    assert_found(find_problems(content), "teacher: ", "gone.pth")


def test_metrics_that_need_more_are_a_note(content: dict[str, Any]) -> None:
    def check(names: Sequence[str]) -> None:
        if "spice" in names:
            raise UserError("Java is missing; install Java 11")

    assert not find_problems(content, check)
    findings = doctor.check_metrics(check)
    assert [finding.mark for finding in findings] == ["ok", "note"]
    assert "install Java 11" in findings[1].text
    assert "cider_d" in findings[0].text


def test_too_many_workers_are_a_note(content: dict[str, Any]) -> None:
    content["run"]["num_workers"] = 10_000
    (finding,) = doctor_machine.check_workers(build_config(content).run)
    assert finding.mark == "note"
    assert "set it to" in finding.text


def test_hashes_tell_sizes_and_ends_apart(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    hashes = set()
    for data in (b"a", b"b", b"aa", b"a" * 3_000_000, b"a" * 2_999_999 + b"b"):
        path.write_bytes(data)
        hashes.add(hash_ends(path))
    assert len(hashes) == 5
    assert all(len(digits) == 12 for digits in hashes)
