"""Checkpoints: written as the family's code can read them, read strictly, never half-written."""

import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from audiolm.config_file import plain_config, save_config
from audiolm.errors import UserError
from audiolm.models import checkpoint
from audiolm.models.checkpoint import load_checkpoints, save_checkpoint, trainable_state
from audiolm.models.key_names import is_junk
from audiolm.models.salmonn import SALMONN
from audiolm.training.optimiser import build_optimiser
from tests.golden import GOLDEN_DIR, Golden, name_changes

State = dict[str, torch.Tensor]

LORA_A = "llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
QFORMER_LAYER = "speech_Qformer.bert.encoder.layer.0"
JUNK = (
    "llama_model.base_model.model.lm_head.weight",
    "beats.encoder.layers.1.self_attn.relative_attention_bias.weight",
    "speech_Qformer.bert.embeddings.position_ids",
    "speech_Qformer.bert.embeddings.word_embeddings.weight",
    "speech_Qformer.bert.embeddings.position_embeddings.weight",
    "speech_Qformer.cls.predictions.bias",
    f"{QFORMER_LAYER}.intermediate.dense.weight",
    f"{QFORMER_LAYER}.output.LayerNorm.bias",
    "llama_model.base_model.model.model.rotary_emb.inv_freq",
    "llama_model.base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq",
    "llama_model.base_model.model.model.layers.0.mlp.up_proj.weight.absmax",
    "llama_model.base_model.model.model.layers.0.mlp.up_proj.weight.quant_map",
    "llama_model.base_model.model.model.layers.0.mlp.up_proj.weight.nested_absmax",
    "llama_model.base_model.model.model.layers.0.mlp.up_proj.weight.nested_quant_map",
    "llama_model.base_model.model.model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4",
)
NEARLY_JUNK = (
    "llama_model.base_model.model.lm_head.bias",
    "beats.encoder.layers.1.self_attn.relative_attention_bias.bias",
    "speech_Qformer.bert.embeddings.token_type_embeddings.weight",
    f"{QFORMER_LAYER}.intermediate_query.dense.scale",
    "speech_Qformer.pooler.dense.weight",
)


@pytest.fixture(scope="module")
def recorded(dev: Golden) -> State:
    """The `model` section of the file that the reference wrote."""
    return torch.load(dev.config.model.ckpt, weights_only=True)["model"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Save anything as a checkpoint file."""

    def write(content: Any, name: str = "checkpoint.pth") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def own_keys(state: Mapping[str, Any]) -> set[str]:
    return {key for key in state if not is_junk(key)}


def assert_equal_states(actual: State, expected: State) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


def redraw(model: SALMONN, seed: int) -> SALMONN:
    """New values for all that trains, so that nothing is equal by its initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in trainable_state(model).values():
            value.copy_(torch.randn(value.shape, generator=generator) / 8)
    return model


# Writing


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": "lora"},
        {"adapter": "dora"},
        {"adapter": "hra"},
        {"adapter": "none"},
        {"adapter": "vblora", "adapter_options": {"vector_length": 16, "num_vectors": 24}},
        {"adapter": "lora", "quantization": "nf4"},
        {"freeze_whisper": False, "freeze_beats": False, "freeze_llm": False},
        {"use_speech_Qformer": False},
    ],
    ids=name_changes,
)
def test_saved_then_loaded_is_equal(changes: dict[str, Any], dev: Golden, tmp_path: Path) -> None:
    model = redraw(dev.build_model(ckpt="", **changes), seed=1)
    save_checkpoint(tmp_path / "a.pth", model)
    again = dev.build_model(ckpt=str(tmp_path / "a.pth"), **changes)
    assert_equal_states(trainable_state(again), trainable_state(model))
    samples, prompts = dev.load_batch("single.0"), dev.prompts("single.0")
    assert model(samples, prompts=prompts)["loss"] == again(samples, prompts=prompts)["loss"]


def test_container(dev_model: SALMONN, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pth", dev_model, config={"run": {"seed": 1}}, epoch=3)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert content.keys() == {"model", "optimizer", "config", "scaler", "epoch"}
    assert content["config"] == {"run": {"seed": 1}}
    assert (content["optimizer"], content["scaler"], content["epoch"]) == ({}, None, 3)


@pytest.mark.parametrize("adapter", ["lora", "vblora"])
def test_keys_are_the_reference_s_without_its_junk(adapter: str) -> None:
    golden = Golden("dev", adapter)
    recorded = torch.load(golden.config.model.ckpt, weights_only=True)["model"]
    state = trainable_state(golden.build_model())
    duplicates = {
        key for key in recorded if "layers" in key and key.endswith("vector_bank.default")
    }
    assert len(duplicates) == (4 if adapter == "vblora" else 0)
    assert state.keys() == own_keys(recorded) - duplicates
    assert_equal_states(state, {key: recorded[key] for key in state})


def test_nothing_frozen_and_nothing_twice(dev_model: SALMONN, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, dev_model)
    state = torch.load(path, weights_only=True)["model"]
    num_trained = sum(p.numel() for p in dev_model.parameters() if p.requires_grad)
    assert sum(value.numel() for value in state.values()) == num_trained
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    names_and_headers = 600 * len(state)
    assert path.stat().st_size < 4 * num_trained + names_and_headers


def test_frozen_connector_is_not_saved(dev: Golden) -> None:
    model = dev.build_model(freeze_speech_QFormer=True, freeze_speech_llama_proj=True)
    parts = {key.split(".")[0] for key in trainable_state(model)}
    assert parts == {"ln_speech", "ln_audio", "llama_model"}


@pytest.mark.parametrize("failing", ["torch.save", "os.fsync", "os.replace"])
def test_failed_write_leaves_the_old_file(
    failing: str, dev_model: SALMONN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, dev_model)
    before = path.read_bytes()

    def fill_disk(*args: Any) -> None:
        if failing == "torch.save":
            args[1].write(b"half a file")
        raise OSError("no space left on device")

    module, function = failing.split(".")
    monkeypatch.setattr(getattr(checkpoint, module), function, fill_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, dev_model, epoch=1)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pth"]


def test_token_is_in_no_file(dev: Golden, dev_model: SALMONN, tmp_path: Path) -> None:
    secret = "a-token-that-must-stay-here"
    config = Golden("dev", "lora").config
    config.model.token = secret
    save_config(config, tmp_path / "config.yaml")
    save_checkpoint(tmp_path / "a.pth", dev_model, config=plain_config(config))
    for path in tmp_path.iterdir():
        assert b"llama_path" in path.read_bytes()  # the configuration is there
        assert secret.encode() not in path.read_bytes()


# Reading


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("is_bare", [False, True])
def test_prefixes_and_bare_state_dicts(
    prefix: str, is_bare: bool, dev: Golden, recorded: State, write: Callable[[Any], Path]
) -> None:
    state = {prefix + key: value for key, value in recorded.items()}
    path = write(state if is_bare else {"model": state})
    loaded = trainable_state(dev.build_model(ckpt=str(path)))
    assert_equal_states(loaded, {key: recorded[key] for key in own_keys(recorded)})


def test_files_of_old_torch_versions(dev: Golden, recorded: State, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"model": recorded}, path, _use_new_zipfile_serialization=False)
    loaded = trainable_state(dev.build_model(ckpt=str(path)))
    assert torch.equal(loaded[LORA_A], recorded[LORA_A])


def test_both_recorded_checkpoints() -> None:
    """The second one ends the recorded training, after which the weights' norms are known."""
    golden = Golden("dev", "lora")
    path = GOLDEN_DIR / "dev" / "lora" / "checkpoint_1.pth"
    state = trainable_state(golden.build_model(ckpt=str(path)))
    norms = golden.optimisation["trajectory.compressed"]["param_norms_after"]
    assert {key: float(value.norm()) for key, value in state.items()} == pytest.approx(norms)


def test_recorded_optimiser_state_fits(dev: Golden) -> None:
    """AdamW's state is by position: groups, order and shapes must be the reference's."""
    path = GOLDEN_DIR / "dev" / "lora" / "checkpoint_1.pth"
    model = dev.build_model(ckpt=str(path))
    optimiser = build_optimiser(model, dev.config.run.optims)
    assert [len(group["params"]) for group in optimiser.param_groups] == [30, 39]
    optimiser.load_state_dict(torch.load(path, weights_only=True)["optimizer"])
    assert len(optimiser.state) == 69
    for parameter, state in optimiser.state.items():
        assert state["exp_avg"].shape == parameter.shape
        assert state["exp_avg_sq"].shape == parameter.shape
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.05, 0]


def test_junk_is_ignored_exactly(
    dev: Golden, recorded: State, write: Callable[[Any], Path]
) -> None:
    model = dev.build_model(ckpt="")
    state = {key: recorded[key] for key in own_keys(recorded)}
    junk = {key: torch.zeros(3) for key in JUNK}
    report = load_checkpoints(model, [write({"model": state | junk})])
    assert sorted(report.ignored) == sorted(JUNK)
    nearly = {key: torch.zeros(3) for key in NEARLY_JUNK}
    with pytest.raises(UserError) as caught:
        load_checkpoints(model, [write({"model": state | nearly})])
    assert f"{len(nearly)} unexpected: {', '.join(nearly)}" in str(caught.value)


def test_junk_names_count_where_they_are_trained(dev: Golden, tmp_path: Path) -> None:
    """Of an unfrozen BEATs and an untied output table, the same keys are real weights."""
    beats_key = "beats.encoder.layers.0.self_attn.relative_attention_bias.weight"
    assert is_junk(beats_key)
    model = redraw(dev.build_model(ckpt="", freeze_beats=False), seed=2)
    save_checkpoint(tmp_path / "a.pth", model)
    again = dev.build_model(ckpt=str(tmp_path / "a.pth"), freeze_beats=False)
    assert torch.equal(trainable_state(again)[beats_key], trainable_state(model)[beats_key])

    untied = Golden("nobeats", "lora")
    model = redraw(untied.build_model(ckpt="", freeze_llm=False), seed=2)
    save_checkpoint(tmp_path / "b.pth", model)
    again = untied.build_model(ckpt=str(tmp_path / "b.pth"), freeze_llm=False)
    assert torch.equal(again.llm.get_output_embeddings().weight, model.llm.lm_head.weight)


def test_all_bad_keys_are_in_one_message(
    dev: Golden, recorded: State, write: Callable[[Any], Path]
) -> None:
    state = dict(recorded)
    del state["ln_audio.bias"], state["speech_llama_proj.bias"]
    state["speech_Qformer.extra"] = state["something.else"] = torch.zeros(1)
    state["ln_speech.weight"] = torch.zeros(5)
    path = write({"model": state})
    with pytest.raises(UserError) as caught:
        dev.build_model(ckpt=str(path))
    message = str(caught.value)
    assert str(path) in message
    assert "2 missing: ln_audio.bias, speech_llama_proj.bias;" in message
    assert "2 unexpected: speech_Qformer.extra, something.else;" in message
    assert message.endswith("1 misshaped: ln_speech.weight (file (5,), model (64,))")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"num_speech_query_token": 2}, "Nq .* is 1 in the file and 2 in the model"),
        ({"beats_path": ""}, r"W \(width of Whisper plus BEATs\) is 112 in the file and 64 in"),
        ({"lora_rank": 4}, "model.lora_rank is 8 in the file and 4 in the model"),
        (
            {"qformer": {"hidden_size": 32, "num_heads": 4, "intermediate_size": 64}},
            "model.qformer.hidden_size is 56 in the file and 32 in the model; "
            "model.qformer.intermediate_size is 96 in the file and 64 in the model; 5",
        ),
        ({"lora": False}, "the file holds lora weights, the model has adapter none"),
    ],
    ids=name_changes,
)
def test_disagreement_is_named(changes: dict[str, Any], cause: str, dev: Golden) -> None:
    with pytest.raises(UserError, match=f"does not fit; {cause}"):
        dev.build_model(**changes)


def test_llm_of_another_width_is_named(
    dev: Golden, recorded: State, write: Callable[[Any], Path]
) -> None:
    wider = {"speech_llama_proj.weight": torch.zeros(72, 56)}
    path = write({"model": recorded | wider | {"speech_llama_proj.bias": torch.zeros(72)}})
    with pytest.raises(UserError, match="H .* is 72 in the file and 64 in the model; 2 misshaped"):
        dev.build_model(ckpt=str(path))


@pytest.mark.parametrize(("offered", "expected"), [("lora", "vblora"), ("vblora", "lora")])
def test_weights_of_another_adapter(offered: str, expected: str) -> None:
    path = Golden("dev", offered).config.model.ckpt
    cause = f"the file holds {offered} weights, the model has adapter {expected}"
    with pytest.raises(UserError, match=f"{cause}: set model.adapter: {offered}"):
        Golden("dev", expected).build_model(ckpt=path)


# Several files, and parts of models


def test_list_of_files_is_read_in_order(
    dev: Golden, recorded: State, write: Callable[..., Path]
) -> None:
    adapter = {key: value for key, value in recorded.items() if "lora" in key}
    rest = {key: value for key, value in recorded.items() if "lora" not in key}
    first = write(rest | {LORA_A: torch.zeros(8, 64)}, "a.pth")
    second = write({"model": adapter}, "b.pth")
    model = dev.build_model(ckpt=[str(first), str(second)])
    assert torch.equal(trainable_state(model)[LORA_A], recorded[LORA_A])
    with pytest.raises(UserError, match="a.pth does not fit; 7 missing: llama_model"):
        dev.build_model(ckpt=str(first))


def test_frozen_connector_must_come_from_somewhere(dev: Golden, tmp_path: Path) -> None:
    first_stage, path = dev.config.model.ckpt, str(tmp_path / "stage2.pth")
    save_checkpoint(Path(path), dev.build_model(freeze_speech_QFormer=True))
    dev.build_model(ckpt=[first_stage, path])
    with pytest.raises(UserError, match="55 missing: speech_Qformer"):
        dev.build_model(ckpt=path, freeze_speech_QFormer=True)


def test_unfrozen_parts_may_come_from_their_own_files(
    dev: Golden, recorded: State, write: Callable[[Any], Path]
) -> None:
    """A second stage may train an encoder that the first one kept frozen."""
    changes = {"freeze_whisper": False, "freeze_beats": False, "freeze_llm": False}
    model = dev.build_model(**changes)
    whisper = trainable_state(model)["speech_encoder.conv1.weight"]
    path = write({"model": recorded | {"speech_encoder.conv1.weight": whisper}})
    with pytest.raises(UserError, match="missing: speech_encoder.conv1.bias, .*") as caught:
        dev.build_model(ckpt=str(path), **changes)  # but not half of it
    assert "beats." not in str(caught.value)


def test_full_checkpoint_without_llm(dev: Golden, recorded: State) -> None:
    """The adapter's weights have no place in a model without an LLM."""
    state = trainable_state(dev.build_model(only_preprocessor=True))
    rest = {key for key in own_keys(recorded) if not key.startswith("llama_model.")}
    assert_equal_states(state, {key: recorded[key] for key in rest})


@pytest.mark.parametrize("prefix", ["speech_llama_proj.", "model.llama_proj.", ""])
def test_projector_of_its_own_file(prefix: str, dev: Golden, write: Callable[[Any], Path]) -> None:
    weight, bias = torch.ones(64, 56), torch.arange(64.0)
    path = write({f"{prefix}weight": weight, f"{prefix}bias": bias})
    model = dev.build_model(ckpt="", speech_llama_proj_model=str(path))
    assert torch.equal(model.speech_llama_proj.weight, weight)
    assert torch.equal(model.speech_llama_proj.bias, bias)


def test_projector_of_another_shape(dev: Golden, write: Callable[[Any], Path]) -> None:
    path = write({"weight": torch.ones(64, 55), "bias": torch.zeros(64)})
    with pytest.raises(UserError, match="model.speech_llama_proj_model: .* does not fit"):
        dev.build_model(ckpt="", speech_llama_proj_model=str(path))


# Files that are no checkpoints


class Harmful:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(
    dev: Golden, tmp_path: Path, write: Callable[[Any], Path]
) -> None:
    trace = tmp_path / "ran"
    path = write({"model": {}, "config": Harmful(trace)})
    with pytest.raises(UserError, match="cannot be read as a checkpoint: it holds more than"):
        dev.build_model(ckpt=str(path))
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"no torch file", b"PK\x03\x04 no archive"])
def test_other_files(content: bytes, dev: Golden, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.pth cannot be read as a checkpoint"):
        dev.build_model(ckpt=str(path))


def test_no_state_dict(dev: Golden, write: Callable[[Any], Path]) -> None:
    with pytest.raises(UserError, match="holds a list, not a state dict"):
        dev.build_model(ckpt=str(write([torch.zeros(1)])))


def test_no_file(dev: Golden) -> None:
    with pytest.raises(UserError, match="model.ckpt: no file at nowhere.pth"):
        dev.build_model(ckpt="nowhere.pth")


def test_a_file_that_does_not_fit_is_told_in_the_systems_words(tmp_path: Path) -> None:
    """torch tells of a position that it did not expect; what was there is untouched."""
    path = tmp_path / "checkpoint.pth"
    checkpoint.write_atomically(path, {"a": torch.zeros(9)})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint\.pth: File too large$"):
            checkpoint.write_atomically(path, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
