"""`model.audio_encoder`: what stands beside Whisper's last layer, and what each choice needs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from audiolm.config import Config
from audiolm.config_file import build_config
from audiolm.errors import UserError
from audiolm.evaluation.memory import measure_weights
from audiolm.models.checkpoint import load_checkpoints, save_checkpoint
from audiolm.models.salmonn import SALMONN
from audiolm.models.whisper import collected_layers, encode_padded, encode_trimmed, mix_layers
from audiolm.training.doctor_models import check_beats
from audiolm.training.feature_key import check_cache_options
from audiolm.training.memory_plan import list_steps
from audiolm.training.plan_command import plan_run
from audiolm.training.plan_setting import read_setting
from tests.golden import Golden

MODES = [
    {"audio_tokens": "fixed", "whisper_input": "padded"},
    {"audio_tokens": "length_aware", "whisper_input": "padded"},
    {"audio_tokens": "length_aware", "whisper_input": "trimmed"},
]
NAME = "speech_layer_weights"


def build(dev: Golden, **changes: Any) -> SALMONN:
    changes = {"ckpt": "", "audio_encoder": "whisper_layers", **changes}
    return dev.build_model(**changes)


@pytest.fixture(scope="module")
def model(dev: Golden) -> SALMONN:
    return build(dev)


def encode(model: SALMONN, samples: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return model.encode_speech(samples["spectrogram"], samples["raw_wav"], samples["padding_mask"])


# Which encoder a configuration means


@pytest.mark.parametrize(
    ("section", "has_path"),
    [
        ({}, True),
        ({"audio_encoder": None}, True),
        ({"audio_encoder": "beats"}, True),
        ({"audio_encoder": "none"}, False),
        ({"audio_encoder": "whisper_layers"}, False),
    ],
    ids=str,
)
def test_the_path_alone_says_whether_there_is_a_beats(
    section: dict[str, Any], has_path: bool
) -> None:
    config = build_config({"model": {"beats_path": "b.pt", **section}})
    assert config.model.beats_path == ("b.pt" if has_path else "")
    again = build_config(dataclasses.asdict(config))  # as a run folder's config.yaml is read
    assert again == config


def test_contradictions_are_refused() -> None:
    with pytest.raises(UserError, match=r"beats needs model\.beats_path, .*whisper_layers or none"):
        build_config({"model": {"audio_encoder": "beats"}})
    with pytest.raises(UserError, match=r"'wavlm' is none of beats, whisper_layers, none"):
        build_config({"model": {"audio_encoder": "wavlm"}})


@torch.no_grad()
def test_none_is_whisper_alone(dev: Golden) -> None:
    torch.manual_seed(0)
    chosen = dev.build_model(ckpt="", audio_encoder="none")
    torch.manual_seed(0)
    expected = dev.build_model(ckpt="", beats_path="")
    samples = dev.load_samples([0])
    assert torch.equal(encode(chosen, samples)[0], encode(expected, samples)[0])


# The mix


@torch.no_grad()
def test_hidden_states_are_those_of_transformers(dev: Golden, dev_model: SALMONN) -> None:
    encoder, spectrogram = dev_model.speech_encoder, dev.load_samples([0, 1])["spectrogram"]
    with collected_layers(encoder) as states:
        encode_padded(encoder, spectrogram)
    expected = encoder(spectrogram, output_hidden_states=True).hidden_states
    assert len(states) == len(expected) == encoder.config.encoder_layers + 1
    for ours, theirs in zip(states[:-1], expected[:-1], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(encoder.layer_norm(states[-1]), expected[-1])  # theirs is normalised
    with collected_layers(encoder) as trimmed:
        encode_trimmed(encoder, spectrogram, torch.tensor([1500, 1500]))
    for ours, theirs in zip(trimmed, states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_the_mix_is_a_weighted_sum_whose_weights_learn() -> None:
    states = [torch.randn(2, 5, 4, dtype=torch.bfloat16) for _ in range(3)]
    weights = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)
    mixed = mix_layers(states, weights)
    stacked = torch.stack(states).float()
    expected = torch.einsum("lbtc,l->btc", stacked, weights.softmax(0))
    torch.testing.assert_close(mixed, expected)
    (gradient,) = torch.autograd.grad(mixed.square().sum(), weights)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), weights)
    torch.testing.assert_close(gradient, expected_gradient)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode.values()))
def test_a_batch_equals_singles(mode: dict[str, str], dev: Golden) -> None:
    model = build(dev, **mode)
    model.speech_layer_weights.copy_(torch.linspace(-1, 1, 3))  # type: ignore[union-attr]
    embeds, mask = encode(model, dev.load_samples(range(5)))
    for row in range(5):
        alone, _ = encode(model, dev.load_samples([row]))
        own = embeds[row][mask[row].bool()]
        torch.testing.assert_close(own, alone[0], atol=5e-6, rtol=0)


def test_the_weights_train_and_the_encoder_does_not(dev: Golden, model: SALMONN) -> None:
    model.train()
    loss = model(dev.load_samples([0, 1]), prompts=["USER: <SpeechHere>Write.\n"] * 2)["loss"]
    loss.backward()
    weights = model.speech_layer_weights
    assert weights is not None
    assert weights.grad is not None
    assert bool((weights.grad != 0).all())
    assert not any(p.requires_grad for p in model.speech_encoder.parameters())
    assert all(p.grad is None for p in model.speech_encoder.parameters())
    model.zero_grad()
    model.eval()


def test_an_encoder_that_trains_learns_through_the_mix(dev: Golden) -> None:
    gradients = []
    for checkpointing in ("none", "encoders"):
        torch.manual_seed(0)
        model = build(dev, freeze_whisper=False, gradient_checkpointing=checkpointing).train()
        model.ln_speech.requires_grad_(False).weight.zero_()  # nothing but the mix is heard
        torch.manual_seed(1)
        model(dev.load_samples([0]), prompts=["USER: <SpeechHere>Write.\n"])["loss"].backward()
        gradients.append(model.speech_encoder.layers[0].fc1.weight.grad)
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_lighter_encoders(dtype: str, dev: Golden, model: SALMONN, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "mix.pth", model)
    light = build(dev, encoder_dtype=dtype, ckpt=str(tmp_path / "mix.pth"))
    samples = dev.load_samples([0])
    one, other = encode(light, samples)[0], encode(model, samples)[0]
    assert one.dtype == torch.float32
    assert 0 < float((one - other).norm() / other.norm()) < 0.05


# Checkpoints


def test_a_checkpoint_holds_the_weights(dev: Golden, tmp_path: Path) -> None:
    model, path = build(dev), tmp_path / "mix.pth"
    assert model.speech_layer_weights is not None
    model.speech_layer_weights.data += torch.tensor([1.0, 2.0, 3.0])
    save_checkpoint(path, model)
    again = build(dev)
    report = load_checkpoints(again, [path])
    assert NAME in report.loaded
    samples = dev.load_samples([0])
    assert torch.equal(encode(again, samples)[0], encode(model, samples)[0])
    assert measure_weights(model)["beats"] == 0

    with pytest.raises(UserError, match=r"set model\.audio_encoder: whisper_layers"):
        load_checkpoints(dev.build_model(ckpt="", audio_encoder="none"), [path])


def test_a_checkpoint_of_another_encoder_is_refused(dev: Golden) -> None:
    with pytest.raises(UserError, match=r"the file does not: set model\.audio_encoder: beats or"):
        dev.build_model(audio_encoder="whisper_layers")


# What knows of it


def test_the_feature_cache_refuses_it_with_the_sizes(dev: Golden) -> None:
    section = dev.model_config(ckpt="", audio_encoder="whisper_layers")
    config = Config(model=section)
    config.datasets.feature_cache = "somewhere"
    expected = r"all 3 hidden states of Whisper would be stored, 1 MB"  # 3 x 1500 x 64 x 4 bytes
    with pytest.raises(UserError, match=expected):
        check_cache_options(config)
    with pytest.raises(UserError, match=expected):
        plan_run(config, Path("configs/models"), is_gpu=False)


def test_the_plan_does_not_advise_the_cache_for_it(dev: Golden) -> None:
    def advise(**changes: Any) -> list[str]:
        config = Config(model=dev.model_config(ckpt="", **changes))
        return [text for text, _ in list_steps(read_setting(config, is_gpu=False))]

    cached = "datasets.feature_cache: FOLDER"
    assert cached in advise()
    assert cached not in advise(audio_encoder="whisper_layers")


def test_the_doctor_says_what_takes_the_place_of_beats(dev: Golden) -> None:
    (found,) = check_beats(dev.model_config(audio_encoder="whisper_layers"))
    assert "whisper_layers takes its place" in str(found)
