"""The joint model: batches, audio tokens, options, freezing, number types."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from audiolm.errors import UserError
from audiolm.models.salmonn import SALMONN
from audiolm.models.whisper import encode_padded, encode_trimmed
from audiolm.training.optimiser import build_optimiser
from tests.golden import Golden, name_changes

EMBEDS_ATOL = 5e-6  # matrix products of other sizes add in another order; values up to 2
VBLORA = {"vector_length": 16, "num_vectors": 24}
MODES = [
    pytest.param({"audio_tokens": tokens, "whisper_input": whisper}, id=f"{tokens}-{whisper}")
    for tokens, whisper in itertools.product(("fixed", "length_aware"), ("padded", "trimmed"))
]
WHOLE_CLIP = {"window_level_Qformer": False, "audio_tokens": "length_aware"}
MODES += [pytest.param(WHOLE_CLIP, id="whole_clip")]
NUM_CLIPS = 5  # of the annotation: 1.3, 3.7, 8.2, 1.6 (44.1 kHz) and 1 s


def encode(model: SALMONN, samples: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return model.encode_speech(
        samples["spectrogram"],
        raw_wav=samples["raw_wav"],
        audio_padding_mask=samples["padding_mask"],
    )


def templated(golden: Golden, question: str) -> str:
    return golden.config.model.prompt_template.format(f"<Speech><SpeechHere></Speech> {question}")


def make_silence(seconds: list[float]) -> dict[str, Any]:
    """Clips of these lengths that are as good as any where only lengths count."""
    lengths = torch.tensor([round(16000 * length) for length in seconds])
    longest = int(lengths.max())
    return {
        "spectrogram": torch.zeros(len(seconds), 80, 3000),
        "raw_wav": torch.zeros(len(seconds), longest),
        "padding_mask": torch.arange(longest) >= lengths[:, None],
    }


# A clip's result never depends on the others


@pytest.fixture(scope="module", params=MODES)
def mode_model(request: pytest.FixtureRequest, dev: Golden) -> SALMONN:
    return dev.build_model(**request.param)


@torch.no_grad()
def test_embeddings_of_a_batch_equal_singles(mode_model: SALMONN, dev: Golden) -> None:
    embeds, mask = encode(mode_model, dev.load_samples(range(NUM_CLIPS)))
    for row in range(NUM_CLIPS):
        alone, alone_mask = encode(mode_model, dev.load_samples([row]))
        assert alone_mask.all()
        assert mask[row].sum() == alone.shape[1]
        own = embeds[row][mask[row].bool()]
        torch.testing.assert_close(own, alone[0], atol=EMBEDS_ATOL, rtol=0)


def test_texts_of_a_batch_equal_singles(mode_model: SALMONN, dev: Golden) -> None:
    """Clips, tasks and prompts of different lengths in one batch."""
    questions = ("Write.", "How many people talk in this clip, and why?", "Caption it.", "", "Who?")
    prompts = [templated(dev, question) for question in questions]
    options = {"max_new_tokens": 12, "num_beams": 1}
    texts = mode_model.generate(dev.load_samples(range(NUM_CLIPS)), options, prompts=prompts)
    for row, prompt in enumerate(prompts):
        alone = mode_model.generate(dev.load_samples([row]), options, prompts=[prompt])
        assert texts[row] == alone[0]
    assert len(set(texts)) > 1


@torch.no_grad()
def test_loss_of_a_batch_is_the_mean_over_its_tokens(mode_model: SALMONN, dev: Golden) -> None:
    prompts = [templated(dev, question) for question in ("Write.", "What can be heard?", "")]
    whole = mode_model(dev.load_samples(range(3)), verbose=True, prompts=prompts)
    parts = [
        mode_model(dev.load_samples([row]), verbose=True, prompts=[prompt])
        for row, prompt in enumerate(prompts)
    ]
    assert whole["total"] == sum(part["total"] for part in parts)
    assert whole["correct"] == sum(part["correct"] for part in parts)
    loss_sum = sum(part["loss"] * part["total"] for part in parts)
    torch.testing.assert_close(whole["loss"], loss_sum / whole["total"])


@torch.no_grad()
def test_padding_of_the_waveform_is_not_heard(mode_model: SALMONN, dev: Golden) -> None:
    samples = dev.load_samples([0])
    expected, _ = encode(mode_model, samples)
    raw_wav = nn.functional.pad(samples["raw_wav"], (0, 50_000), value=0.5)
    padding_mask = nn.functional.pad(samples["padding_mask"], (0, 50_000), value=True)
    padded = {**samples, "raw_wav": raw_wav, "padding_mask": padding_mask}
    actual, _ = encode(mode_model, padded)
    torch.testing.assert_close(actual, expected, atol=EMBEDS_ATOL, rtol=0)
    # Where nothing says that it is padding, it is audio.
    unmasked, _ = mode_model.encode_speech(samples["spectrogram"], raw_wav)
    assert unmasked.shape != expected.shape or not torch.allclose(unmasked, expected, atol=1e-2)


# Number of audio tokens


@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"audio_tokens": "fixed"}, [88, 88, 88]),
        ({"audio_tokens": "length_aware"}, [3, 30, 88]),
        ({"audio_tokens": "length_aware", "num_speech_query_token": 2}, [6, 60, 176]),
        ({"audio_tokens": "length_aware", "use_speech_Qformer": False}, [3, 30, 88]),
        ({"audio_tokens": "length_aware", "second_stride": 0.5}, [2, 20, 60]),
        ({"audio_tokens": "fixed", "window_level_Qformer": False}, [1, 1, 1]),
        ({"audio_tokens": "length_aware", "window_level_Qformer": False}, [1, 1, 1]),
    ],
    ids=name_changes,
)
def test_number_of_audio_tokens(changes: dict[str, Any], expected: list[int], dev: Golden) -> None:
    model = dev.build_model(ckpt="", beats_path="", only_preprocessor=True, **changes)
    samples = make_silence([1.0, 10.0, 30.0])
    embeds, mask = encode(model, samples)
    assert mask.sum(1).tolist() == expected
    assert embeds.shape == (3, max(expected), 64)
    assert not embeds[~mask.bool()].any()


@torch.no_grad()
def test_without_windows_queries_look_at_real_audio_only(dev: Golden) -> None:
    """`length_aware` masks what lies beyond a clip; whatever is there has no influence."""
    model = dev.build_model(ckpt="", whisper_input="trimmed", **WHOLE_CLIP)
    samples = dev.load_samples([0])
    expected, _ = encode(model, samples)
    samples["spectrogram"][:, :, 200:] = 1.0  # the clip ends at 130
    actual, _ = encode(model, samples)
    torch.testing.assert_close(actual, expected, atol=EMBEDS_ATOL, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("tokens", "num_frames"), [("fixed", 500), ("length_aware", 510)], ids=["fixed", "aware"]
)
def test_trimmed_whisper_encodes_real_frames_only(
    tokens: str, num_frames: int, dev: Golden
) -> None:
    """10 s are 500 frames; the 30 windows of 17 that start in them end at 510."""
    model = dev.build_model(
        ckpt="", beats_path="", only_preprocessor=True, audio_tokens=tokens, whisper_input="trimmed"
    )
    lengths = []
    model.speech_encoder.layers[0].register_forward_hook(
        lambda module, args, output: lengths.append(args[0].shape[1])
    )
    encode(model, make_silence([10.0, 2.0]))
    assert lengths == [num_frames]


@torch.no_grad()
def test_trimming_nothing_changes_nothing(dev_model: SALMONN, dev: Golden) -> None:
    spectrogram = dev.load_samples([0])["spectrogram"]
    encoder = dev_model.speech_encoder
    expected = encode_padded(encoder, spectrogram)
    actual = encode_trimmed(encoder, spectrogram, torch.tensor([1500]))
    torch.testing.assert_close(actual, expected, atol=EMBEDS_ATOL, rtol=0)


# Options


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"lora": False}, set()),
        ({"adapter": "none"}, set()),
        ({"adapter": "lora"}, {"lora_A", "lora_B"}),
        ({"adapter": "dora"}, {"lora_A", "lora_B", "lora_magnitude_vector"}),
        ({"adapter": "hra"}, {"hra_u"}),
        ({"adapter": True}, {"hra_u"}),
        (
            {"adapter": "vblora", "adapter_options": VBLORA},
            {"vblora_logits_A", "vblora_logits_B", "vblora_vector_bank"},
        ),
        ({"adapter_options": {"target_modules": ["o_proj"]}}, {"lora_A", "lora_B"}),
        ({"window_level_Qformer": False}, {"lora_A", "lora_B"}),
        ({"use_speech_Qformer": False}, {"lora_A", "lora_B"}),
        ({"num_speech_query_token": 3}, {"lora_A", "lora_B"}),
        ({"beats_path": ""}, {"lora_A", "lora_B"}),
        ({"audio_tokens": "length_aware", "whisper_input": "trimmed"}, {"lora_A", "lora_B"}),
    ],
    ids=name_changes,
)
def test_options_train_and_generate(changes: dict[str, Any], kinds: set[str], dev: Golden) -> None:
    model = dev.build_model(ckpt="", **changes).train()
    samples, prompts = dev.load_samples([0, 4]), dev.prompts("equal")[:2]
    before = [parameter.clone() for parameter in model.parameters() if parameter.requires_grad]
    optimiser = build_optimiser(model, dev.config.run.optims)
    model(samples, prompts=prompts)["loss"].backward()
    optimiser.step()
    after = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(p.grad is not None for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    adapter = [name for name, p in model.llm.named_parameters() if p.requires_grad]
    assert {kind for kind in kinds if any(kind in name for name in adapter)} == kinds
    assert bool(adapter) == bool(kinds)
    texts = model.eval().generate(samples, {"max_new_tokens": 3, "num_beams": 2}, prompts=prompts)
    assert [type(text) for text in texts] == [str, str]


def test_adapter_options_reach_peft(dev: Golden) -> None:
    changes = {"lora_rank": 3, "lora_alpha": 7, "adapter_options": {"target_modules": ["o_proj"]}}
    layer = dev.build_model(ckpt="", **changes).llm.base_model.model.model.layers[0].self_attn
    assert layer.o_proj.r == {"default": 3}
    assert layer.o_proj.scaling == {"default": 7 / 3}
    assert isinstance(layer.q_proj, nn.Linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_such_option": 1}, "no_such_option"),
        ({"target_modules": ["no_such_layer"]}, "no_such_layer"),
    ],
)
def test_wrong_adapter_options(options: dict[str, Any], message: str, dev: Golden) -> None:
    with pytest.raises(UserError, match=f"adapter_options.*{message}"):
        dev.build_model(ckpt="", adapter_options=options)


def test_only_preprocessor(dev: Golden, dev_model: SALMONN) -> None:
    """Audio embeddings as in the whole model, and no LLM in memory."""
    model = dev.build_model(only_preprocessor=True)
    samples = dev.load_samples([0])
    with torch.no_grad():
        assert torch.equal(encode(model, samples)[0], encode(dev_model, samples)[0])
    assert model.llama_model is None
    model.train()
    for call in (model, model.generate):
        with pytest.raises(UserError, match="model.only_preprocessor: true builds no LLM"):
            call(samples, prompts=dev.prompts("single.0"))


def test_decoder_of_whisper_is_not_loaded(dev_model: SALMONN) -> None:
    names = [name for name, _ in dev_model.speech_encoder.named_parameters()]
    assert names
    assert not [name for name in names if "decoder" in name]


def test_attention_implementation_is_passed_on(dev: Golden) -> None:
    samples, prompts = dev.load_samples([0, 1]), dev.prompts("equal")[:2]
    losses = []
    for name in ("eager", "sdpa"):
        model = dev.build_model(attn_implementation=name, whisper_input="trimmed")
        assert model.llm.config._attn_implementation == name
        assert model.speech_encoder.config._attn_implementation == name
        losses.append(model(samples, prompts=prompts)["loss"])
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="flash_attention_2 needs the flash-attn package"):
        dev.build_model(attn_implementation="flash_attention_2")


def test_config_of_any_kind(
    dev: Golden, dev_model: SALMONN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A YAML's section as OmegaConf gives it (relative paths from here), a dict, a dataclass."""
    monkeypatch.chdir(dev.folder)
    node = OmegaConf.load("config_lora.yaml").model
    node.qformer = dataclasses.asdict(dev.config.model.qformer)
    plain = OmegaConf.to_container(node)
    samples = dev.load_samples([0])
    with torch.no_grad():
        expected, _ = encode(dev_model, samples)
        for config in (node, plain, dev.config.model):
            assert torch.equal(encode(SALMONN.from_config(config), samples)[0], expected)


# Bad input


def test_mel_bins_that_disagree(dev: Golden, dev_model: SALMONN) -> None:
    samples = dev.load_samples([0])
    spectrogram = torch.zeros(1, 128, 3000)
    with pytest.raises(UserError, match="128 mel bins, but .* reads 80; point datasets.whisper_pa"):
        dev_model.encode_speech(spectrogram, samples["raw_wav"])


def test_waveform_is_needed_for_beats(dev_model: SALMONN) -> None:
    with pytest.raises(ValueError, match="raw_wav: this model has a BEATs encoder"):
        dev_model.encode_speech(torch.zeros(1, 80, 3000))


@pytest.mark.parametrize("name", ["llama_path", "whisper_path", "beats_path"])
def test_paths_that_lead_nowhere(name: str, dev: Golden, tmp_path: Path) -> None:
    for path in ("no/such/place", str(tmp_path)):  # the second is an empty folder
        with pytest.raises(UserError) as caught:
            dev.build_model(ckpt="", **{name: path})
        assert str(caught.value).startswith(f"model.{name}: ")
        assert path in str(caught.value)


def test_folder_of_another_model(dev: Golden) -> None:
    with pytest.raises(UserError, match="holds a 'llama' model, expected 'whisper'"):
        dev.build_model(ckpt="", whisper_path=dev.config.model.llama_path)


# Freezing


FREEZING = {
    "freeze_whisper": "speech_encoder",
    "freeze_beats": "beats",
    "freeze_speech_QFormer": "speech_Qformer",
    "freeze_speech_llama_proj": "speech_llama_proj",
}


@pytest.mark.parametrize("option", FREEZING)
@pytest.mark.parametrize("is_frozen", [True, False])
def test_freezing(option: str, is_frozen: bool, dev: Golden) -> None:
    model = dev.build_model(**{option: is_frozen})
    part = model.get_submodule(FREEZING[option])
    model.train()
    assert {module.training for module in part.modules()} == {not is_frozen}
    model(dev.load_samples([4]), prompts=dev.prompts("single.0"))["loss"].backward()
    has_gradient = {p.grad is not None for p in part.parameters() if p.is_leaf}
    assert has_gradient == ({False} if is_frozen else {True})
    if option == "freeze_speech_QFormer":
        assert model.speech_query_tokens is not None
        assert (model.speech_query_tokens.grad is None) == is_frozen
    model.eval()
    assert not any(module.training for module in model.modules())


def test_unfrozen_llm(dev: Golden) -> None:
    model = dev.build_model(freeze_llm=False).train()
    model(dev.load_samples([4]), prompts=dev.prompts("single.0"))["loss"].backward()
    assert all(p.grad is not None for p in model.llm.parameters())
    assert all(module.training for module in model.llm.modules())


def test_only_the_adapter_of_a_frozen_llm_is_in_training(dev: Golden) -> None:
    model = dev.build_model(lora_dropout=0.5).train()
    in_training = {name for name, module in model.llm.named_modules() if module.training}
    assert in_training
    assert all("q_proj" in name or "v_proj" in name for name in in_training)
    assert not [name for name in in_training if "base_layer" in name]
    assert [name for name in in_training if "lora_dropout" in name]


def test_frozen_encoders_are_not_random_in_training(dev: Golden) -> None:
    """The file asks for BEATs layers to be dropped, and Whisper's may have dropout."""
    model = dev.build_model(freeze_speech_QFormer=True, lora_dropout=0.0)
    samples, prompts = dev.load_samples([0]), dev.prompts("single.0")
    expected = model(samples, prompts=prompts)["loss"]
    model.train()
    assert all(model(samples, prompts=prompts)["loss"] == expected for _ in range(3))


def test_connector_dropout_is_random_in_training_alone(dev: Golden) -> None:
    changes = {"freeze_speech_QFormer": True, "lora_dropout": 0.0}
    samples, prompts = dev.load_samples([0]), dev.prompts("single.0")
    expected = dev.build_model(**changes)(samples, prompts=prompts)["loss"]
    model = dev.build_model(**changes, connector_dropout=0.5)
    assert model(samples, prompts=prompts)["loss"] == expected
    model.train()
    first, second = (float(model(samples, prompts=prompts)["loss"].detach()) for _ in range(2))
    assert len({first, second, float(expected)}) == 3


def test_dropout_of_the_qformer_can_be_turned_off(dev: Golden) -> None:
    sizes = dataclasses.asdict(dev.config.model.qformer)
    samples, prompts = dev.load_samples([0]), dev.prompts("single.0")
    for dropout in (0.0, 0.5):
        model = dev.build_model(qformer=sizes | {"dropout": dropout}, lora_dropout=0.0)
        expected = float(model(samples, prompts=prompts)["loss"].detach())
        model.train()
        actual = float(model(samples, prompts=prompts)["loss"].detach())
        assert (actual == expected) == (dropout == 0.0)


def test_adapter_dropout_is_random_in_training(dev: Golden) -> None:
    model = dev.build_model(freeze_speech_QFormer=True, lora_dropout=0.5).train()
    samples, prompts = dev.load_samples([0]), dev.prompts("single.0")
    first, second = (float(model(samples, prompts=prompts)["loss"].detach()) for _ in range(2))
    assert first != second


def test_frozen_encoders_keep_no_graph(dev: Golden) -> None:
    model = dev.build_model().train()
    outputs = []
    assert model.beats is not None
    for part in (model.speech_encoder.layer_norm, model.beats):
        part.register_forward_hook(lambda module, args, output: outputs.append(output))
    encode(model, dev.load_samples([0]))
    tensors = [output if isinstance(output, torch.Tensor) else output[0] for output in outputs]
    assert len(tensors) == 2
    assert not any(tensor.requires_grad for tensor in tensors)


# Number types


def test_half_precision_is_for_frozen_weights_only(dev: Golden) -> None:
    model = SALMONN.from_config(dev.model_config(), dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        expected = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert parameter.dtype == expected, name
    samples, prompts = dev.load_samples([0]), dev.prompts("single.0")
    loss = model(samples, prompts=prompts)["loss"]
    loss.backward()
    recorded = dev.values["forward.single.0"]["loss"]
    assert loss.item() == pytest.approx(recorded, abs=0.1)  # 8 bits of mantissa
    assert model.generate(samples, {"max_new_tokens": 2}, prompts=prompts)


def test_unfrozen_parts_stay_in_float32(dev: Golden) -> None:
    changes = {"freeze_whisper": False, "freeze_beats": False, "freeze_llm": False}
    model = SALMONN.from_config(dev.model_config(**changes), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "storage", "tolerance"),
    [
        ({"quantization": "int8"}, torch.int8, 0.05),
        ({"quantization": "nf4"}, torch.uint8, 0.5),
        ({"low_resource": True}, torch.uint8, 0.5),
    ],
    ids=["int8", "nf4", "low_resource"],
)
def test_quantised_llm_trains_and_generates(
    changes: dict[str, Any], storage: torch.dtype, tolerance: float, dev: Golden
) -> None:
    model = dev.build_model(**changes, lora_dropout=0.0)
    projections = [p for name, p in model.llm.named_parameters() if "gate_proj" in name]
    assert {parameter.dtype for parameter in projections} == {storage}
    assert model.speech_encoder.conv1.weight.dtype == torch.float32

    samples, prompts = dev.load_samples([0]), dev.prompts("single.0")
    optimiser = build_optimiser(model, dataclasses.replace(dev.config.run.optims, init_lr=1e-3))
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = model(samples, prompts=prompts)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    recorded = dev.values["forward.single.0"]["loss"]
    assert losses[0] == pytest.approx(recorded, abs=tolerance)
    assert losses[0] > losses[1] > losses[2]
    assert len(model.generate(samples, {"max_new_tokens": 3}, prompts=prompts)) == 1


def test_quantised_weights_cannot_be_trained(dev: Golden) -> None:
    with pytest.raises(UserError, match="freeze_llm: false cannot train an LLM quantised to nf4"):
        dev.build_model(quantization="nf4", freeze_llm=False)
