"""BEATs: equal to the recorded features, free of its batch mates, strict about its files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from audiolm.audio.features import kaldi_fbank
from audiolm.audio.loading import load_waveform
from audiolm.errors import UserError
from audiolm.models.beats import BEATs, BeatsConfig
from audiolm.models.beats_attention import compute_relative_buckets
from audiolm.models.beats_file import select_encoder_weights
from tests.data.golden.goldenlib import Golden

GOLDEN_DIR = Path(__file__).resolve().parent / "data" / "golden" / "dev"
BEATS_PATH = GOLDEN_DIR / "components" / "beats.pt"
SMALL = BeatsConfig(
    encoder_layers=2,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=40,
    encoder_attention_heads=3,
    embed_dim=16,
    conv_pos=8,
    conv_pos_groups=2,
)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("dev", "lora")


@pytest.fixture(scope="module")
def beats() -> BEATs:
    return BEATs.from_checkpoint(BEATS_PATH).eval().requires_grad_(False)


def load_clips() -> tuple[torch.Tensor, torch.Tensor]:
    clips = [
        torch.from_numpy(load_waveform(GOLDEN_DIR / "audio" / f"{name}.wav").samples)
        for name in "abc"
    ]
    lengths = torch.tensor([clip.shape[0] for clip in clips])
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths


def make_batch(num_frames: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    fbank = torch.randn(len(num_frames), max(num_frames), 128, generator=generator)
    return fbank, torch.tensor(num_frames)


def test_relative_buckets(golden: Golden) -> None:
    buckets = compute_relative_buckets(torch.arange(-1600, 1601), 320, 800)
    assert golden.check("beats.relative_buckets", buckets), golden.errors


def test_features_of_the_recorded_fbank(beats: BEATs, golden: Golden) -> None:
    fbank = golden.t["beats.fbank.0_t1"]
    features, num_patches = beats(fbank, torch.tensor([fbank.shape[1]]))
    assert num_patches.tolist() == [64]
    assert golden.check("beats.features.single.0", features), golden.errors


@pytest.mark.parametrize("index", [0, 1])
def test_features_from_audio(index: int, beats: BEATs, golden: Golden) -> None:
    waveforms, lengths = load_clips()
    features, _ = beats(*kaldi_fbank(waveforms[index : index + 1, : lengths[index]]))
    # Another filterbank implementation than the recording's; 1e-3 is allowed.
    expected = golden.t[f"beats.features.single.{index}"]
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)


def test_batch_equals_singles(beats: BEATs, golden: Golden) -> None:
    waveforms, lengths = load_clips()
    fbank, num_frames = kaldi_fbank(waveforms, lengths)
    features, num_patches = beats(fbank, num_frames)
    assert num_patches.tolist() == [64, 184, 408]
    for index, count in enumerate(num_patches.tolist()):
        alone, _ = beats(
            fbank[index : index + 1, : num_frames[index]], num_frames[index : index + 1]
        )
        # Matrix products of other sizes may add in another order.
        torch.testing.assert_close(features[index, :count], alone[0], atol=1e-5, rtol=0)
        assert not features[index, count:].any()
    # The reference's padding leaks into the shorter clips; its longest clip is right.
    expected = golden.t["beats.features.batch"]
    torch.testing.assert_close(features[2], expected[2], atol=1e-4, rtol=0)


def test_what_lies_beyond_a_clip_is_not_read(beats: BEATs) -> None:
    fbank, num_frames = make_batch([50, 131])
    features, num_patches = beats(fbank, num_frames)
    assert num_patches.tolist() == [24, 64]
    fbank[0, 50:] = torch.nan
    assert torch.equal(beats(fbank, num_frames)[0], features)
    longer = torch.nn.functional.pad(fbank, (0, 0, 0, 40), value=torch.nan)
    padded, _ = beats(longer, num_frames)
    assert padded.shape[1] == 80
    assert torch.equal(padded[:, :64], features)


def test_layers_are_never_dropped_and_dropout_is_for_training() -> None:
    fbank, num_frames = make_batch([64])
    config = BeatsConfig.from_dict(dataclasses.asdict(SMALL) | {"encoder_layerdrop": 0.99})
    model = BEATs(config)
    assert torch.equal(model.train()(fbank, num_frames)[0], model.eval()(fbank, num_frames)[0])
    for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_input"):
        model = BEATs(dataclasses.replace(SMALL, **{name: 0.5}))
        evaluated = model.eval()(fbank, num_frames)[0]
        assert torch.equal(evaluated, model(fbank, num_frames)[0])
        assert not torch.allclose(evaluated, model.train()(fbank, num_frames)[0])


def test_every_parameter_learns() -> None:
    model = BEATs(SMALL)
    features, _ = model(*make_batch([64, 40]))
    features.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A key bias shifts all scores of a query alike, which the softmax does not see.
        assert name.endswith("k_proj.bias") or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_norm_first": True, "deep_norm": False},
        {"gru_rel_pos": False},
        {"relative_position_embedding": False},
        {"embed_dim": 24, "conv_bias": True, "activation_fn": "relu", "conv_pos": 7},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_variants_of_the_architecture(changes: dict[str, object]) -> None:
    model = BEATs(dataclasses.replace(SMALL, **changes)).eval()  # pyright: ignore
    fbank, num_frames = make_batch([64, 40])
    features, num_patches = model(fbank, num_frames)
    alone, _ = model(fbank[1:, :40], num_frames[1:])
    assert features.shape == (2, 32, 24)
    torch.testing.assert_close(features[1, : num_patches[1]], alone[0], atol=1e-5, rtol=0)


def test_half_precision_weights() -> None:
    model = BEATs.from_checkpoint(BEATS_PATH, dtype=torch.bfloat16).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    fbank, num_frames = make_batch([64])
    with torch.no_grad():
        features, _ = model(fbank, num_frames)
        expected, _ = BEATs.from_checkpoint(BEATS_PATH).eval()(fbank, num_frames)
    assert features.dtype == torch.bfloat16
    error = (features.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 0.05  # bfloat16 keeps 8 bits, and the errors of two layers add up


def make_released_keys() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released file, written out from its description."""
    width, ffn_width, num_heads = 768, 3072, 12
    shapes: dict[str, tuple[int, ...]] = {
        "post_extract_proj.weight": (width, 512),
        "post_extract_proj.bias": (width,),
        "patch_embedding.weight": (512, 1, 16, 16),
        "encoder.pos_conv.0.bias": (width,),
        "encoder.pos_conv.0.weight_g": (1, 1, 128),
        "encoder.pos_conv.0.weight_v": (width, 48, 128),
        "predictor.weight": (527, width),
        "predictor.bias": (527,),
    }
    norms = {"encoder.layer_norm": width, "layer_norm": 512}
    for index in range(12):
        layer = f"encoder.layers.{index}"
        attention = f"{layer}.self_attn"
        shapes[f"{attention}.grep_a"] = (1, num_heads, 1, 1)
        shapes[f"{attention}.relative_attention_bias.weight"] = (320, num_heads)
        linears = {f"{attention}.{name}_proj": (width, width) for name in ("k", "v", "q", "out")}
        linears[f"{attention}.grep_linear"] = (8, width // num_heads)
        linears |= {f"{layer}.fc1": (ffn_width, width), f"{layer}.fc2": (width, ffn_width)}
        for name, shape in linears.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        norms |= {f"{layer}.self_attn_layer_norm": width, f"{layer}.final_layer_norm": width}
    for name, size in norms.items():
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return shapes


def test_released_file_fits() -> None:
    released = make_released_keys()
    assert len(released) == 252
    weights = {name: torch.zeros(1).expand(shape) for name, shape in released.items()}
    with torch.device("meta"):
        model = BEATs(BeatsConfig())  # the defaults are the released configuration
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert select_encoder_weights(weights, expected, "released.pt").keys() == expected.keys()
    head = 527 * 768 + 527
    assert sum(parameter.numel() for parameter in model.parameters()) + head == 90_717_055


def test_file_round_trip(tmp_path: Path) -> None:
    source = torch.load(BEATS_PATH, weights_only=True)
    model = BEATs.from_checkpoint(BEATS_PATH)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source["model"][name]), name
    torch.save({"cfg": source["cfg"], "model": model.state_dict()}, tmp_path / "own.pt")
    again = BEATs.from_checkpoint(tmp_path / "own.pt")
    fbank, num_frames = make_batch([64])
    assert torch.equal(again(fbank, num_frames)[0], model(fbank, num_frames)[0])


def test_wrong_weights_are_all_listed(tmp_path: Path) -> None:
    content = torch.load(BEATS_PATH, weights_only=True)
    weights = content["model"]
    del weights["layer_norm.bias"]
    weights["encoder.layers.0.fc1.bias"] = torch.zeros(3)
    weights["encoder.layers.7.fc1.bias"] = torch.zeros(3)
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad\.pt does not fit") as caught:
        BEATs.from_checkpoint(tmp_path / "bad.pt")
    message = str(caught.value)
    assert "missing layer_norm.bias" in message
    assert "unexpected encoder.layers.7.fc1.bias" in message
    assert "encoder.layers.0.fc1.bias is (3,) instead of (96,)" in message


def test_bias_tables_must_agree(tmp_path: Path) -> None:
    content = torch.load(BEATS_PATH, weights_only=True)
    name = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    content["model"][name] = content["model"][name] + 1
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="one table shared by all layers"):
        BEATs.from_checkpoint(tmp_path / "bad.pt")


def test_unknown_activation() -> None:
    with pytest.raises(UserError, match="activation_fn is 'glu', allowed are"):
        BeatsConfig.from_dict({"activation_fn": "glu"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "cannot read"),
        (b"hello, I am a text file", "cannot read"),
        (b"PK\x03\x04 a broken archive", "cannot read"),
        ({"model": {}}, "should hold 'cfg' and 'model', it holds"),
        ([1, 2], "it holds list"),
        ({"cfg": 1, "model": {}}, "should be dicts"),
        (np.float64, "cannot read"),  # a pickled class: refused by weights_only
    ],
)
def test_other_files(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "beats.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        BEATs.from_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
