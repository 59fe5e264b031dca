"""`model.encoder_dtype`: what each value builds, what it costs in accuracy, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from audiolm.config_file import load_config
from audiolm.errors import UserError
from audiolm.evaluation.memory import measure_weights
from audiolm.models.checkpoint import load_checkpoints
from audiolm.models.quantisation import choose_encoder_dtype
from audiolm.models.salmonn import SALMONN
from audiolm.training.doctor_models import check_encoder_dtype
from audiolm.training.feature_key import describe_features
from tests.golden import GOLDEN_DIR, Golden


def encode(model: SALMONN, samples: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        embeds, _ = model.encode_speech(
            samples["spectrogram"], samples["raw_wav"], samples["padding_mask"]
        )
    return embeds


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.fixture(scope="module")
def int8_model(dev: Golden) -> SALMONN:
    return dev.build_model(encoder_dtype="int8")


def test_auto_and_fp32_are_equal_on_a_processor(dev: Golden, dev_model: SALMONN) -> None:
    model = dev.build_model(encoder_dtype="fp32")
    samples = dev.load_samples([0])
    assert torch.equal(encode(model, samples), encode(dev_model, samples))


def test_bf16_encoders_stay_close(dev: Golden, dev_model: SALMONN) -> None:
    model = dev.build_model(encoder_dtype="bf16")
    assert {p.dtype for p in model.speech_encoder.parameters()} == {torch.bfloat16}
    assert model.beats is not None
    assert {p.dtype for p in model.beats.parameters()} == {torch.bfloat16}
    assert model.ln_speech.weight.dtype == torch.float32
    samples = dev.load_samples([0])
    difference = relative_difference(encode(model, samples), encode(dev_model, samples))
    assert 0 < difference < 0.05  # bfloat16 has 8 bits of precision


def test_int8_encoders_stay_close_and_are_smaller(
    dev: Golden, dev_model: SALMONN, int8_model: SALMONN
) -> None:
    samples = dev.load_samples([0])
    difference = relative_difference(encode(int8_model, samples), encode(dev_model, samples))
    assert 0 < difference < 0.05
    plain, packed = measure_weights(dev_model), measure_weights(int8_model)
    assert packed["whisper"] < 0.75 * plain["whisper"]  # positions and convolutions stay
    assert packed["beats"] < 0.75 * plain["beats"]
    assert packed["llm"] == plain["llm"]


@pytest.mark.parametrize("whisper_input", ["padded", "trimmed"])
def test_int8_results_do_not_depend_on_batch_mates(dev: Golden, whisper_input: str) -> None:
    model = dev.build_model(
        encoder_dtype="int8", audio_tokens="length_aware", whisper_input=whisper_input
    )
    together = encode(model, dev.load_samples([0, 1, 2]))
    for row in range(3):
        alone = encode(model, dev.load_samples([row]))[0]
        # An activation at the border of two steps of 1/127 may round to either.
        assert relative_difference(together[row, : len(alone)], alone) < 5e-3


def test_int8_model_trains_and_answers(dev: Golden, int8_model: SALMONN) -> None:
    samples = dev.load_samples([0])
    prompts = dev.prompts("single.0")
    loss = int8_model(samples, prompts=prompts)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert int8_model.speech_llama_proj.weight.grad is not None
    int8_model.zero_grad()
    assert len(int8_model.generate(samples, {"max_new_tokens": 2}, prompts=prompts)) == 1


def test_encoder_weights_do_not_go_into_packed_ones(
    dev: Golden, int8_model: SALMONN, tmp_path: Path
) -> None:
    content = torch.load(str(dev.config.model.ckpt), weights_only=True)
    name = "speech_encoder.layers.0.fc1.weight"
    shape = int8_model.get_parameter(name).shape
    path = tmp_path / "encoder.pth"
    torch.save({"model": {**content["model"], name: torch.zeros(shape)}}, path)
    with pytest.raises(UserError, match=r"kept in 8 bits .*fc1\.weight"):
        load_checkpoints(int8_model, [path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_dtype": "fp16"}, "fp16 is for GPUs; on a processor use fp32"),
        ({"encoder_dtype": "int8", "freeze_whisper": False}, "freeze_whisper: false trains"),
        ({"encoder_dtype": "bf16", "freeze_beats": False}, "freeze_beats: false trains"),
        ({"encoder_dtype": "int4"}, "'int4' is none of auto, fp32"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(dev: Golden, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dev.build_model(**changes)


def test_missing_bitsandbytes_is_told(dev: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="encoder_dtype: int8 needs bitsandbytes; pip install"):
        dev.build_model(encoder_dtype="int8")


def test_a_plan_for_a_gpu_takes_half_precision(dev: Golden) -> None:
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        options = dev.model_config(encoder_dtype=name)
        assert choose_encoder_dtype(options, torch.float32, "cuda") == dtype


def test_feature_caches_of_other_weights_are_apart(tmp_path: Path) -> None:
    descriptions = []
    for name in ("auto", "int8"):
        changes = [f"model.encoder_dtype={name}", f"datasets.feature_cache={tmp_path}"]
        config = load_config(GOLDEN_DIR / "dev" / "config_lora.yaml", changes)
        dtype = choose_encoder_dtype(config.model, torch.float32)
        descriptions.append(describe_features(config, 80, dtype))
    assert "weights" not in descriptions[0]  # caches of before stay valid
    assert descriptions[1] == {**descriptions[0], "weights": "int8"}


def test_doctor_knows_the_type() -> None:
    for name, text in (("int8", "linear layers in int8, the rest in float32"), ("bf16", "slow")):
        changes = [f"model.encoder_dtype={name}", "run.device=cpu"]
        config = load_config(GOLDEN_DIR / "dev" / "config_lora.yaml", changes)
        assert text in check_encoder_dtype(config)[0].text
