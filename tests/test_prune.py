"""`python -m audiolm.compress prune`: what is dropped, what is written, and that it goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from audiolm.compress.__main__ import main
from audiolm.compress.calibration import load_calibration
from audiolm.compress.importance import build_loss, find_layers, measure_importance, skipped
from audiolm.compress.pruning import keep_layers, renumber_layers
from audiolm.config_file import load_config, save_config
from audiolm.errors import UserError
from audiolm.models.checkpoint import save_checkpoint
from audiolm.models.salmonn import SALMONN
from tests.golden import GOLDEN_DIR, Golden

DEV = GOLDEN_DIR / "dev"
ANNOTATION = str(DEV / "annotation_asr.json")


def write_source(golden: Golden, folder: Path, **changes: Any) -> Path:
    config = load_config(golden.folder / f"config_{golden.adapter}.yaml")
    config.model = golden.model_config(**changes)
    path = folder / "source.yaml"
    save_config(config, path)
    return path


def run_prune(source: Path, output: Path, *more: str) -> int:
    fixed = ["--calibration", ANNOTATION, "--num-clips", "1", "-o", str(output)]
    return main(["prune", "--cfg-path", str(source), *fixed, *more])


UNFROZEN = {"freeze_whisper": False, "freeze_llm": False}
MIXED = {**UNFROZEN, "audio_encoder": "whisper_layers"}


@pytest.mark.parametrize(
    ("part", "adapter", "changes"),
    [
        ("llm", "lora", UNFROZEN),
        ("llm", "vblora", {}),
        ("whisper", "lora", UNFROZEN),
        ("whisper", "lora", MIXED),
    ],
    ids=["llm-lora", "llm-vblora", "whisper", "whisper_layers"],
)
def test_pruned_model_is_the_original_without_the_layer(
    part: str, adapter: str, changes: dict[str, Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With everything trained away from its file, so that a wrong number would show."""
    golden = Golden("dev", adapter)
    frozen = {**changes, "ckpt": ""} if changes is MIXED else changes
    model = golden.build_model(**frozen)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "norm" in name:
            parameter.data += 0.05 + 0.01 * (".layers.1." in name)
    if model.speech_layer_weights is not None:
        model.speech_layer_weights.data += torch.tensor([0.5, -1.0, 1.5])
    save_checkpoint(tmp_path / "all.pth", model)
    source = write_source(golden, tmp_path, **frozen | {"ckpt": str(tmp_path / "all.pth")})
    output = tmp_path / "small"
    assert run_prune(source, output, "--part", part, "--num-layers", "1") == 0
    result = json.loads((output / "importance.json").read_text(encoding="utf-8"))
    (dropped,) = result["dropped"]
    table = capsys.readouterr().out
    assert "2 layers before, 1 after" in table
    assert f"{result['loss_before']:.4f} before, {result['loss_after']:.4f} after" in table

    clips = load_calibration(load_config(source), ANNOTATION, "", 1)
    compute_loss = build_loss(model, part, clips)
    assert compute_loss() == pytest.approx(result["loss_before"], abs=1e-5)
    with skipped([find_layers(model, part)[dropped]]):
        without = compute_loss()
    assert without != pytest.approx(result["loss_before"], abs=1e-4)
    assert without == pytest.approx(result["loss_after"], abs=1e-5)

    moved = output.rename(tmp_path / "elsewhere")
    healing = load_config(moved / "heal.yaml", required=["model.llama_path", "model.whisper_path"])
    assert healing.run.exp_name.endswith("_heal")
    small = SALMONN.from_config(healing.model)
    config = json.loads((moved / part / "config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers" if part == "llm" else "encoder_layers"] == 1
    check_training_step(small, golden)


def check_training_step(model: SALMONN, golden: Golden) -> None:
    """A step of gradient descent, small enough, lowers the loss of its own batch."""
    samples, prompts = golden.load_samples([0]), golden.prompts("single.0")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = model(samples, prompts=prompts)["loss"]
    before.backward()
    torch.optim.SGD(trained, lr=1e-5).step()
    assert model(samples, prompts=prompts)["loss"] < before


def test_influence_of_layers_that_are_known(dev: Golden) -> None:
    model = dev.build_model()
    layers = find_layers(model, "llm")
    with torch.no_grad():
        for name, parameter in layers[1].named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()  # the layer adds nothing
    config = load_config(DEV / "config_lora.yaml")
    clips = load_calibration(config, ANNOTATION, "", 1, require_text=True)
    loss, (first, second) = measure_importance(model, "llm", clips)
    assert second.influence == pytest.approx(0, abs=1e-6)
    assert second.loss_without == pytest.approx(loss, abs=1e-6)
    assert first.influence > 1e-3
    assert first.loss_without != pytest.approx(loss, abs=1e-4)
    assert not layers[0]._forward_hooks  # none is left behind


def test_renumbering() -> None:
    lora = "llama_model.base_model.model.model.layers.{}.self_attn.q_proj.lora_A.default.weight"
    state = {lora.format(i): torch.tensor(i) for i in range(12)}
    state["ln_speech.weight"] = torch.tensor(-1)
    renumbered = renumber_layers(state, "llm", [0, 2, 11])
    expected = {lora.format(0): 0, lora.format(1): 2, lora.format(2): 11, "ln_speech.weight": -1}
    assert {key: int(value) for key, value in renumbered.items()} == expected
    assert renumber_layers(state, "whisper", [0]).keys() == state.keys()


def test_a_dropped_layers_share_of_the_mix_goes_to_the_state_before_it() -> None:
    shares = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])  # before the layers, after each of four
    state = {"speech_layer_weights": shares.log() + 3}
    (mix,) = renumber_layers(state, "whisper", [1, 2]).values()
    torch.testing.assert_close(mix.softmax(0), torch.tensor([0.3, 0.3, 0.4]))
    assert renumber_layers(state, "llm", [0])["speech_layer_weights"].shape == (5,)


def test_what_a_configuration_lists_per_layer_is_kept_in_step() -> None:

    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = Qwen2Config(
        vocab_size=16, num_hidden_layers=3, num_key_value_heads=2, layer_types=kinds, **size
    )
    llm = Qwen2ForCausalLM(config)
    keep_layers(llm.get_decoder(), config, "num_hidden_layers", [1, 2])
    assert (config.num_hidden_layers, config.layer_types) == (2, kinds[1:])


@pytest.mark.parametrize(
    ("flags", "changes", "message"),
    [
        (["--num-layers", "2"], {}, "llm has 2 layers, of which at most 1 can go"),
        (["--num-layers", "1"], {"quantization": "nf4"}, "model.quantization: nf4: rounded"),
        (
            ["--num-layers", "1"],
            {"ckpt": "", "adapter_options": {"layers_to_transform": [1]}},
            "layers_to_transform counts layers",
        ),
    ],
)
def test_what_cannot_be_pruned(
    flags: list[str], changes: dict[str, Any], message: str, dev: Golden, tmp_path: Path
) -> None:
    source = write_source(dev, tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        run_prune(source, tmp_path / "out", "--part", "llm", *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["source.yaml"]


def test_clips_need_texts(dev: Golden, tmp_path: Path) -> None:
    path = tmp_path / "no_text.json"
    path.write_text('{"annotation": [{"path": "a.wav"}]}', encoding="utf-8")
    source = write_source(dev, tmp_path)
    command = ["prune", "--cfg-path", str(source), "--calibration", str(path), "--part", "llm"]
    with pytest.raises(UserError, match='"text" is missing'):
        main([*command, "--num-layers", "1", "-o", str(tmp_path / "out")])
