"""`python -m audiolm.compress`: the written folders do what the original did, or are not there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from audiolm.compress import merging
from audiolm.compress.__main__ import main
from audiolm.config_file import load_config, save_config
from audiolm.errors import UserError
from audiolm.evaluation.pipeline import Evaluation, evaluate
from audiolm.evaluation.report import ReportOptions
from audiolm.models.checkpoint import read_checkpoint, save_checkpoint
from audiolm.models.salmonn import SALMONN
from tests.golden import GOLDEN_DIR, Golden

ROOT = Path(__file__).resolve().parents[1]
DEV = GOLDEN_DIR / "dev"


def write_source(golden: Golden, folder: Path, **changes: Any) -> Path:
    """A configuration file of the recorded model, with short greedy answers."""
    config = load_config(golden.folder / f"config_{golden.adapter}.yaml")
    config.model = golden.model_config(**changes)
    config.generate.num_beams, config.generate.max_new_tokens = 1, 8
    config.datasets.test_ann_path_asr = config.datasets.test_ann_path
    path = folder / "source.yaml"
    save_config(config, path)
    return path


def run_verb(verb: str, source: Path, output: Path, *more: str) -> int:
    calibration = ["--calibration", str(DEV / "annotation_asr.json"), "--num-clips", "1"]
    return main([verb, "--cfg-path", str(source), *calibration, "-o", str(output), *more])


def forward(model: SALMONN, golden: Golden) -> torch.Tensor:
    samples = golden.load_samples([0])
    with torch.no_grad():
        inputs = model.prepare(samples, golden.prompts("single.0"), [[5, 6, 7]])
        return model.llm(inputs_embeds=inputs.inputs_embeds).logits


@pytest.fixture(scope="module")
def source(dev: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(dev, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert run_verb("export", source, folder) == 0
    return folder


def train_adapter(golden: Golden, adapter: str, path: Path) -> dict[str, Any]:
    """Options of a model whose adapter changes the logits, with the checkpoint written to `path`:
    the recorded one, or one of another kind that is moved off its start, which does nothing."""
    if adapter == golden.adapter:
        return {}
    changes = {"adapter": adapter, "ckpt": ""}
    model = golden.build_model(**changes)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.llm.named_parameters():
        if parameter.requires_grad and "magnitude" in name:
            parameter.data *= 1.1
        elif parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    save_checkpoint(path, model)
    return {"adapter": adapter, "ckpt": str(path)}


@pytest.mark.parametrize("adapter", ["lora", "vblora", "dora", "hra"])
def test_merged_model_is_the_original(
    adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = Golden("dev", "vblora" if adapter == "vblora" else "lora")
    changes = train_adapter(golden, adapter, tmp_path / "trained.pth")
    output = tmp_path / "merged"
    verb = "export" if adapter == "hra" else "merge"  # which merges alike, and adds the rest
    assert run_verb(verb, write_source(golden, tmp_path, **changes), output) == 0
    assert "1 of 1 greedy answers are the same" in capsys.readouterr().out
    if verb == "merge":
        assert {path.name for path in output.iterdir()} == {"llm", "connector.pth", "config.yaml"}
    keys = read_checkpoint(output / "connector.pth")["model"]
    assert keys
    assert not [key for key in keys if key.startswith("llama_model.")]
    config = load_config(output / "config.yaml", required=["model.llama_path"])
    assert (config.model.adapter, config.model.lora) == ("none", False)
    merged, original = SALMONN.from_config(config.model), golden.build_model(**changes)
    assert not [name for name, _ in merged.named_parameters() if adapter in name]
    torch.testing.assert_close(
        forward(merged, golden), forward(original, golden), atol=1e-4, rtol=0
    )
    base = golden.build_model(
        **changes | {"adapter": "none", "ckpt": str(output / "connector.pth")}
    )
    assert (forward(base, golden) - forward(original, golden)).abs().max() > 1e-3  # it does matter


def test_unfrozen_parts_are_kept(dev: Golden, tmp_path: Path) -> None:
    model = dev.build_model(freeze_whisper=False, freeze_llm=False)
    for name, parameter in model.named_parameters():
        if "norm" in name and parameter.requires_grad:
            parameter.data += 0.1
    save_checkpoint(tmp_path / "all.pth", model)
    changes = {"freeze_whisper": False, "freeze_llm": False, "ckpt": str(tmp_path / "all.pth")}
    output = tmp_path / "merged"
    assert run_verb("merge", write_source(dev, tmp_path, **changes), output) == 0
    merged = SALMONN.from_config(load_config(output / "config.yaml").model)
    torch.testing.assert_close(forward(merged, dev), forward(model, dev), atol=1e-4, rtol=0)


def test_exported_folder_holds_everything(exported: Path, source: Path) -> None:
    names = {str(path.relative_to(exported)) for path in exported.rglob("*")}
    assert {"llm/config.json", "llm/tokenizer.json", "whisper/preprocessor_config.json"} <= names
    assert {"beats.pt", "connector.pth", "prompts/test_prompt.json"} <= names
    lines = (exported / "config.yaml").read_text(encoding="utf-8").split("datasets:")[0]
    assert str(DEV) not in lines


PROGRAM = """
import sys
sys.modules["peft"] = None  # any import of it fails
from audiolm.config_file import load_config
from audiolm.models.salmonn import SALMONN
SALMONN.from_config(load_config(sys.argv[1]).model)
"""


def run(command: list[str], folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_exported_folder_loads_without_peft(exported: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'audiolm-trainer')!r})\n{PROGRAM}"
    run([sys.executable, "-c", program, str(exported / "config.yaml")], exported.parent)


def test_exported_folder_scores_equal_answers(exported: Path, source: Path, tmp_path: Path) -> None:
    texts = []
    moved = tmp_path / "moved"
    exported.rename(moved)  # a folder that names itself would break here
    try:
        for path in (source, moved / "config.yaml"):
            config = load_config(path)
            root = tmp_path / path.stem
            plan = Evaluation("valid_asr", [], str(root), "", ReportOptions(False, 0))
            result = evaluate(config, plan)
            assert result is not None
            texts.append(Path(result.csv_path).read_text(encoding="utf-8"))
    finally:
        moved.rename(exported)
    assert len(texts[0].splitlines()) > 3
    assert texts[0] == texts[1]


@pytest.mark.parametrize("verb", ["merge", "export"])
def test_drift_is_refused_and_nothing_is_left(verb: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"moves the logits by .* more than --tolerance"):
        run_verb(verb, source, tmp_path / "out", "--tolerance", "0")
    assert list(tmp_path.iterdir()) == []


def test_changed_texts_are_refused() -> None:
    drift = merging.Drift(0.0, 4, 1)
    with pytest.raises(UserError, match="greedy answers of 1 of 4 clips"):
        merging.check_drift(drift, torch.float32, merging.Tolerances())
    merging.check_drift(drift, torch.float32, merging.Tolerances(texts=0.25))
    with pytest.raises(UserError, match="moves the logits by nan"):
        merging.check_drift(merging.Drift(float("nan"), 4, 0), torch.float32, merging.Tolerances())


def test_existing_output_is_replaced_only_when_told(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="--overwrite"):
        run_verb("merge", source, output)
    assert (output / "precious").exists()
    assert run_verb("merge", source, output, "--overwrite") == 0
    assert not (output / "precious").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization": "nf4"}, "model.quantization: nf4: rounded weights cannot be changed"),
        ({"low_resource": True}, "model.low_resource: true: rounded weights"),
        ({"adapter": "none", "ckpt": ""}, "nothing to merge"),
    ],
)
def test_what_cannot_be_merged(
    changes: dict[str, Any], message: str, dev: Golden, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run_verb("merge", write_source(dev, tmp_path, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_one_line_and_status_2(dev: Golden, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "audiolm.compress", "merge", "--calibration", "none.json"]
    command += ["--cfg-path", str(write_source(dev, tmp_path, quantization="int8")), "-o", "out"]
    folder = ROOT / "audiolm-trainer"
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: model.quantization: int8")
    assert len(result.stderr.splitlines()) == 1
