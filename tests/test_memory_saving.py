"""Training in less memory: checkpointed activations, quantised bases, 8-bit AdamW, half precision.

None of them may change what is computed beyond rounding, which each test states.
"""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from audiolm.errors import UserError
from audiolm.models.beats import BEATs
from audiolm.models.salmonn import SALMONN
from audiolm.training.optimiser import build_optimiser
from tests.golden import Golden

# Sums in another order: 24 bits of mantissa.
GRADIENT_RTOL = 1e-6
UNFROZEN = {"freeze_whisper": False, "freeze_beats": False}


def build(dev: Golden, **changes: Any) -> SALMONN:
    return dev.build_model(**{"audio_tokens": "length_aware", "whisper_input": "trimmed"} | changes)


def run(model: SALMONN, dev: Golden, rows: tuple[int, ...] = (0, 4)) -> dict[str, Any]:
    prompts = [f"USER: <SpeechHere>{'Write it. ' * (row + 1)}\nASSISTANT:" for row in rows]
    return model(dev.load_samples(rows), verbose=True, prompts=prompts)


def compute_gradients(model: SALMONN, dev: Golden) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # dropout
    run(model, dev)["loss"].backward()
    named = model.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def train(model: SALMONN, dev: Golden, num_steps: int) -> list[float]:
    optims = dataclasses.replace(dev.config.run.optims, init_lr=2e-3)
    optimiser = build_optimiser(model, optims)
    losses = []
    for _ in range(num_steps):
        optimiser.zero_grad()
        loss = run(model, dev)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


# Activation checkpointing


def find_module(model: nn.Module, kind: str) -> Any:
    """The first module of a class."""
    return next(module for module in model.modules() if type(module).__name__ == kind)


def watch_layers(model: SALMONN) -> dict[str, int]:
    """Counts how often a layer of each part is run; a checkpointed one is run twice."""
    counts: dict[str, int] = {}
    layers = {
        "whisper": model.speech_encoder.layers[0].fc1 if model.speech_encoder else None,
        "beats": model.beats.encoder.layers[0].fc1 if model.beats else None,  # type: ignore[union-attr]
        "qformer": model.get_submodule("speech_Qformer.encoder.layer.0.intermediate_query"),
        "llm": find_module(model.llm, "LlamaMLP").gate_proj,
    }
    for name, layer in layers.items():
        assert layer is not None
        counts[name] = 0

        def count(*arguments: Any, name: str = name) -> None:
            counts[name] += 1

        layer.register_forward_hook(count)
    return counts


@pytest.mark.parametrize(
    ("choice", "changes", "twice"),
    [
        ("none", UNFROZEN, set()),
        ("llm", UNFROZEN, {"llm"}),
        ("encoders", UNFROZEN, {"whisper", "beats", "qformer"}),
        ("all", UNFROZEN, {"whisper", "beats", "qformer", "llm"}),
        ("all", {}, {"qformer", "llm"}),
        ("all", {**UNFROZEN, "whisper_input": "padded"}, {"whisper", "beats", "qformer", "llm"}),
        ("llm", {"freeze_llm": False}, {"llm"}),
        ("llm", {"adapter": "none"}, {"llm"}),
        ("llm", {"adapter": "dora"}, {"llm"}),
        ("llm", {"quantization": "nf4"}, {"llm"}),
        ("llm", {"quantization": "int8"}, {"llm"}),
        (
            "llm",  # embeddings that need no gradient
            {"freeze_speech_QFormer": True, "freeze_speech_llama_proj": True},
            {"llm"},
        ),
    ],
)
def test_checkpointed_layers_give_the_same_gradients(
    choice: str, changes: dict[str, Any], twice: set[str], dev: Golden
) -> None:
    changes = {"ckpt": "" if "adapter" in changes else dev.config.model.ckpt, **changes}
    torch.manual_seed(0)
    plain = build(dev, **changes).train()
    torch.manual_seed(0)
    model = build(dev, gradient_checkpointing=choice, **changes).train()
    counts = watch_layers(model)
    expected, actual = compute_gradients(plain, dev), compute_gradients(model, dev)
    assert {name for name, count in counts.items() if count == 2} == twice
    assert all(counts.values())
    assert actual.keys() == expected.keys()
    total = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in actual.items():
        assert (gradient - expected[name]).norm() <= GRADIENT_RTOL * total, name


def test_checkpointed_activations_take_less_memory(dev: Golden) -> None:
    """Bytes kept for the backward pass, weights not counted."""
    kept = {}
    for choice in ("none", "llm", "all"):
        model = build(dev, gradient_checkpointing=choice, **UNFROZEN).train()
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            if not isinstance(tensor, nn.Parameter):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = run(model, dev)
        kept[choice] = sum(storages.values())
        del output
    assert kept["llm"] < 0.9 * kept["none"]
    assert kept["all"] < 0.6 * kept["none"]


@pytest.mark.parametrize("changes", [{}, {"quantization": "nf4"}, {"freeze_llm": False}])
def test_generation_knows_nothing_of_checkpointing(changes: dict[str, Any], dev: Golden) -> None:
    texts = []
    for choice in ("none", "all"):
        model = build(dev, gradient_checkpointing=choice, **changes)
        model.train()
        run(model, dev)["loss"].backward()
        model.eval()
        caches: list[Any] = []
        find_module(model.llm, "LlamaModel").register_forward_hook(
            lambda module, args, output, caches=caches: caches.append(output.past_key_values)
        )
        options = {"max_new_tokens": 6, "num_beams": 1}
        prompts = ["<SpeechHere>Write it."]
        texts.append(model.generate(dev.load_samples([0]), options, prompts=prompts))
        assert caches
        assert None not in caches
    assert texts[0] == texts[1]


def test_frozen_parts_stay_in_eval_mode(dev: Golden) -> None:
    """A checkpointed layer of a frozen LLM trains in name only: its own dropout is off."""
    model = build(dev, gradient_checkpointing="all", lora_dropout=0.5, ckpt="")
    layers = [m for m in model.llm.modules() if type(m).__name__ == "LlamaDecoderLayer"]
    layers[0].dropout = 0.5
    model.train()
    in_training = {name for name, module in model.llm.named_modules() if module.training}
    assert {layer.training for layer in layers} == {True}
    kinds = ("q_proj", "v_proj")
    assert not [n for n in in_training if not any(k in n for k in kinds) and n[-1] not in "01"]
    assert layers[0].dropout == 0.0
    assert model.speech_encoder is not None
    assert not any(module.training for module in model.speech_encoder.modules())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_embeddings_are_not_made_to_need_gradients(dev: Golden) -> None:
    model = build(dev, gradient_checkpointing="llm").train()
    embeddings = model.llm.get_input_embeddings()
    assert not embeddings(torch.tensor([1, 2])).requires_grad


def test_a_model_that_cannot_be_checkpointed(dev: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    with pytest.raises(UserError, match="gradient_checkpointing: LlamaForCausalLM does not supp"):
        build(dev, gradient_checkpointing="llm")


# 8-bit AdamW


def make_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 8))


def step_layers(layers: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> float:
    batch = torch.randn(16, 64, generator=torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    loss = (layers(batch) - batch[:, :8]).square().mean()
    loss.backward()
    optimiser.step()
    return loss.item()


def test_8_bit_moments(dev: Golden) -> None:
    """Two bytes per weight of a matrix, and nearly the same path as with 32 bits."""
    optims = dataclasses.replace(dev.config.run.optims, init_lr=1e-2, optimiser="adamw8bit")
    layers = make_layers()
    optimiser = build_optimiser(layers, optims)
    losses = [step_layers(layers, optimiser, seed) for seed in range(30)]
    weight, bias = layers[0].parameters()
    state = optimiser.state[weight]
    assert {state["state1"].dtype, state["state2"].dtype} == {torch.uint8}
    assert optimiser.state[bias]["state1"].dtype == torch.float32  # too small to pay

    full = make_layers()
    reference = build_optimiser(full, dataclasses.replace(optims, optimiser="adamw"))
    expected = [step_layers(full, reference, seed) for seed in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    # 8 bits with a scale per 256 weights err by under 2 % of a step.
    assert losses == pytest.approx(expected, rel=0.05)
    decays = [group["weight_decay"] for group in optimiser.param_groups]
    assert decays == [group["weight_decay"] for group in reference.param_groups]


def test_8_bit_state_survives_saving(dev: Golden, tmp_path: Any) -> None:
    optims = dataclasses.replace(dev.config.run.optims, init_lr=1e-2, optimiser="adamw8bit")
    layers = make_layers()
    optimiser = build_optimiser(layers, optims)
    for seed in range(5):
        step_layers(layers, optimiser, seed)
    torch.save(optimiser.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(layers)
    resumed = build_optimiser(other, optims)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in range(5, 10):
        assert step_layers(layers, optimiser, seed) == step_layers(other, resumed, seed)
    assert all(
        torch.equal(a, b) for a, b in zip(layers.parameters(), other.parameters(), strict=True)
    )


def test_8_bit_optimiser_trains_the_model(dev: Golden) -> None:
    model = build(dev)
    optims = dataclasses.replace(dev.config.run.optims, init_lr=2e-3, optimiser="adamw8bit")
    optimiser = build_optimiser(model, optims)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = run(model, dev)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


# Quantised bases


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("choice", ["none", "llm"])
def test_adapters_train_on_a_quantised_base(quantization: str, choice: str, dev: Golden) -> None:
    config = dev.model_config(
        quantization=quantization, gradient_checkpointing=choice, audio_tokens="length_aware"
    )
    model = SALMONN.from_config(config, dtype=torch.bfloat16).train()
    base = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
    }
    embeddings = model.llm.get_input_embeddings()
    assert embeddings.weight.dtype == torch.bfloat16  # as loaded: not upcast
    losses = train(model, dev, 5)
    assert losses[-1] < losses[0] - 0.05
    for name, parameter in model.named_parameters():
        if name in base:
            assert parameter.dtype == base[name].dtype
            assert torch.equal(parameter, base[name]), name
        else:
            assert parameter.dtype == torch.float32, name
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32


# Number types


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)], ids=["bf16", "fp16"]
)
@pytest.mark.parametrize("is_frozen_half", [True, False], ids=["half_frozen", "float_frozen"])
@pytest.mark.parametrize("choice", ["none", "all"])
def test_autocast(
    dtype: torch.dtype, tolerance: float, is_frozen_half: bool, choice: str, dev: Golden
) -> None:
    """Near float32 within a few units of the last place of 8 or 11 bits, over some layers."""
    config = dev.model_config(
        gradient_checkpointing=choice,
        lora_dropout=0.0,
        qformer=dataclasses.asdict(dev.config.model.qformer) | {"dropout": 0.0},
        audio_tokens="length_aware",
        whisper_input="trimmed",
    )
    expected = run(SALMONN.from_config(config), dev)["loss"].item()
    frozen_dtype = dtype if is_frozen_half else torch.float32
    model = SALMONN.from_config(config, dtype=frozen_dtype).train()
    # From 1024, not 65536, at which some first gradients overflow and the step is skipped.
    is_scaled = dtype == torch.float16
    scaler = torch.amp.GradScaler("cpu", init_scale=1024, enabled=is_scaled)  # type: ignore[attr-defined]
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = run(model, dev)["loss"]
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.dtype == torch.float32, name
                assert parameter.grad is not None, name
                assert parameter.grad.dtype == torch.float32, name
                assert parameter.grad.isfinite().all(), name
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(expected, rel=tolerance)
    assert losses[2] < losses[0]
    model.eval()
    texts = model.generate(
        dev.load_samples([0]), {"max_new_tokens": 3}, prompts=["<SpeechHere>Write it."]
    )
    assert len(texts) == 1


def test_frozen_encoders_compute_alike_with_and_without_autocast(dev: Golden) -> None:
    model = build(dev)
    outputs: list[torch.Tensor] = []
    assert isinstance(model.beats, BEATs)
    model.beats.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    samples = dev.load_samples([0])
    arguments = samples["spectrogram"], samples["raw_wav"], samples["padding_mask"]
    model.encode_speech(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.encode_speech(*arguments)
    assert torch.equal(*outputs)


def test_gradients_of_half_precision_reach_everything_without_autocast(dev: Golden) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model = SALMONN.from_config(dev.model_config(audio_tokens="length_aware"), dtype=dtype)
        run(model, dev)["loss"].backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


# Attention


@pytest.mark.parametrize("name", ["auto", "sdpa", "eager"])
def test_attention_of_quantised_and_plain_models(name: str, dev: Golden) -> None:
    expected = "sdpa" if name == "auto" else name
    for quantization in ("none", "nf4"):
        model = build(dev, attn_implementation=name, quantization=quantization)
        assert model.speech_encoder is not None
        assert model.llm.config._attn_implementation == expected
        assert model.speech_encoder.config._attn_implementation == expected


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_flash_attention_is_not_here(quantization: str, dev: Golden) -> None:
    message = r"attn_implementation: flash_attention_2 needs .* use auto or sdpa"
    for changes in ({}, {"only_preprocessor": True}):  # the LLM's, and Whisper's alone
        with pytest.raises(UserError, match=message):
            build(
                dev, attn_implementation="flash_attention_2", quantization=quantization, **changes
            )


# Numbers by row


@torch.no_grad()
def test_numbers_by_row_are_those_of_single_clips(dev: Golden) -> None:
    model = build(dev)
    rows = (0, 1, 4)
    whole = run(model, dev, rows)
    assert whole["row_totals"].sum() == whole["total"]
    assert whole["row_correct"].sum() == whole["correct"]
    torch.testing.assert_close(whole["row_losses"].sum() / whole["total"], whole["loss"])
    for place, row in enumerate(rows):
        alone = run(model, dev, (row,))
        assert whole["row_totals"][place] == alone["total"]
        assert whole["row_correct"][place] == alone["correct"]
        loss_sum = alone["loss"] * alone["total"]
        torch.testing.assert_close(whole["row_losses"][place], loss_sum, atol=1e-4, rtol=1e-5)


def test_numbers_by_row_have_no_gradients(dev: Golden) -> None:
    model = build(dev)
    result = run(model, dev)
    assert result["loss"].requires_grad
    assert not any(result[name].requires_grad for name in ("row_losses", "row_correct"))
    prompts = ["<SpeechHere>"]
    assert model(dev.load_samples([0]), prompts=prompts).keys() == {"loss"}
