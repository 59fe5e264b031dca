"""Any Whisper and any causal LLM of transformers, by their own folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from audiolm.config import Config
from audiolm.config_file import build_model_config
from audiolm.errors import UserError
from audiolm.models.checkpoint import save_checkpoint, trainable_state
from audiolm.models.llm import load_llm, load_tokenizer
from audiolm.models.salmonn import SALMONN
from audiolm.models.whisper import encode_padded, load_whisper_encoder
from audiolm.training.optimiser import build_optimiser
from audiolm.training.plan_command import plan_run
from tests.golden import GOLDEN_DIR, Golden

QFORMER = {"hidden_size": 32, "num_heads": 4, "intermediate_size": 64}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

# Any Whisper

# Mel bins, layers of encoder and decoder: what tells the released sizes apart besides width.
WHISPERS = {
    "small": (80, 2, 2),
    "large-v3": (128, 2, 2),
    "turbo": (128, 3, 1),
    "distil": (80, 1, 1),
}


def write_whisper(folder: Path, num_mel_bins: int, encoder: int, decoder: int) -> Any:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=40,
        num_mel_bins=num_mel_bins,
        d_model=24,
        encoder_layers=encoder,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=decoder,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        pad_token_id=1,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=2,
    )
    whisper = WhisperForConditionalGeneration(config).eval()
    whisper.save_pretrained(folder)
    return whisper


def rename_keys(folder: Path, old: str, new: str) -> None:
    """As other tools write the same weights."""
    path = folder / "model.safetensors"
    weights = {key.replace(old, new, 1): value for key, value in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})


@torch.no_grad()
@pytest.mark.parametrize("name", WHISPERS)
@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder."])
def test_any_whisper_loads_by_its_config(name: str, prefix: str, tmp_path: Path) -> None:
    whisper = write_whisper(tmp_path, *WHISPERS[name])
    rename_keys(tmp_path, "model.encoder.", prefix)
    assert any(key.startswith(prefix) for key in load_file(tmp_path / "model.safetensors"))
    encoder = load_whisper_encoder(str(tmp_path))
    spectrogram = torch.randn(2, WHISPERS[name][0], 3000)
    expected = whisper.model.encoder(spectrogram).last_hidden_state
    assert torch.equal(encode_padded(encoder, spectrogram), expected)


@torch.no_grad()
@pytest.mark.parametrize("audio_encoder", ["none", "whisper_layers"])
@pytest.mark.parametrize("name", WHISPERS)
def test_the_model_takes_its_sizes_from_whisper(
    name: str, audio_encoder: str, dev: Golden, tmp_path: Path
) -> None:
    num_mel_bins, num_layers, _ = WHISPERS[name]
    write_whisper(tmp_path, *WHISPERS[name])
    model = dev.build_model(
        ckpt="", whisper_path=str(tmp_path), audio_encoder=audio_encoder, only_preprocessor=True
    )
    embeds, _ = model.encode_speech(torch.randn(1, num_mel_bins, 3000))
    assert embeds.shape == (1, 88, 64)
    is_mixed = audio_encoder == "whisper_layers"
    assert model.encoder_sizes.frame_width == (48 if is_mixed else 24)
    if model.speech_layer_weights is not None:
        assert model.speech_layer_weights.shape == (num_layers + 1,)
    assert (model.speech_layer_weights is not None) == is_mixed


# Any causal LLM

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
}
SLIDING = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
OPT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
    "word_embed_proj_dim": 32, "max_position_embeddings": 256,
}  # fmt: skip
LLMS: dict[str, tuple[Any, Any, dict[str, Any], list[str]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, SIZE | {"tie_word_embeddings": True}, ["q_proj"]),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, SIZE, ["k_proj", "up_proj"]),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, SIZE | SLIDING, ["q_proj", "o_proj"]),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, SIZE | SLIDING, ["q_proj", "down_proj"]),
    "neox": (GPTNeoXConfig, GPTNeoXForCausalLM, SIZE, ["query_key_value", "dense"]),
    "opt": (OPTConfig, OPTForCausalLM, OPT, ["q_proj", "fc1"]),
    "phi": (PhiConfig, PhiForCausalLM, SIZE, ["q_proj", "fc2"]),  # its head has a bias
}


def write_llm(folder: Path, name: str) -> None:
    """A random model of that family, with the tokenizer of the recorded stack."""
    config_class, model_class, size, _ = LLMS[name]
    recorded = GOLDEN_DIR / "dev" / "components" / "llama"
    vocabulary = json.loads((recorded / "config.json").read_text(encoding="utf-8"))
    ids = {key: vocabulary[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")}
    torch.manual_seed(0)
    config = config_class(**size, **ids, pad_token_id=None)
    model_class(config).save_pretrained(folder)
    for file in TOKENIZER_FILES:
        if (recorded / file).is_file():
            shutil.copy(recorded / file, folder)


def list_options(folder: Path, dev: Golden, **adapter_options: Any) -> dict[str, Any]:
    return {
        "llama_path": str(folder),
        "whisper_path": dev.config.model.whisper_path,
        "qformer": QFORMER,
        "audio_tokens": "length_aware",
        "adapter_options": adapter_options,
    }


@pytest.mark.parametrize("name", LLMS)
def test_any_causal_llm_trains_answers_and_is_saved(name: str, dev: Golden, tmp_path: Path) -> None:
    targets = LLMS[name][3]
    write_llm(tmp_path / "llm", name)
    options = list_options(tmp_path / "llm", dev, target_modules=targets)
    torch.manual_seed(0)
    model = SALMONN.from_config(options).train()
    adapted = {key.split(".lora_")[0].split(".")[-1] for key in trainable_state(model)}
    assert set(targets) <= adapted

    samples = dev.load_samples([0, 1])
    prompts = ["USER: <SpeechHere>Write.\n", "USER: <SpeechHere>What is it?\n"]
    optims = Config().run.optims
    optims.init_lr = 1e-2
    optimiser = build_optimiser(model, optims)
    losses = []
    for _ in range(3):
        loss = model(samples, prompts=prompts)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]

    path = tmp_path / "model.pth"
    save_checkpoint(path, model)
    again = SALMONN.from_config(options | {"ckpt": str(path)})
    expected = trainable_state(model)
    assert trainable_state(again).keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in trainable_state(again).items())
    generation = {"max_new_tokens": 6, "num_beams": 1}
    texts = model.eval().generate(samples, generation, prompts=prompts)
    assert again.generate(samples, generation, prompts=prompts) == texts
    alone = again.generate(dev.load_samples([1]), generation, prompts=prompts[1:])
    assert alone == texts[1:]


@pytest.mark.parametrize("name", LLMS)
def test_the_plan_counts_any_causal_llm(name: str, dev: Golden, tmp_path: Path) -> None:
    write_llm(tmp_path, name)
    section = build_model_config(list_options(tmp_path, dev, target_modules=LLMS[name][3]))
    planned = plan_run(Config(model=section), Path("configs/models"), is_gpu=False)
    built = SALMONN.from_config(section)
    shapes = {key: value.shape for key, value in planned.sizes.model.named_parameters()}
    assert shapes == {key: value.shape for key, value in built.named_parameters()}


@pytest.mark.parametrize("name", LLMS)
def test_the_padding_token_gets_rows_of_means(name: str, dev: Golden, tmp_path: Path) -> None:
    write_llm(tmp_path, name)
    old = LLMS[name][1].from_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    llm = load_llm(str(tmp_path), tokenizer)
    size = len(tokenizer)
    assert size == old.config.vocab_size + 1
    assert llm.config.vocab_size == size
    assert not [key for key, parameter in llm.named_parameters() if parameter.requires_grad]
    tables: list[Any] = [
        (model.get_input_embeddings(), model.get_output_embeddings()) for model in (old, llm)
    ]
    assert (tables[1][0].weight is tables[1][1].weight) == (
        tables[0][0].weight is tables[0][1].weight
    )
    assert (tables[1][0].num_embeddings, tables[1][1].out_features) == (size, size)
    for before, after in zip(*tables, strict=True):
        assert type(after) is type(before)
        for key, parameter in before.named_parameters():
            grown = after.get_parameter(key)
            assert torch.equal(grown[:-1], parameter)
            torch.testing.assert_close(grown[-1], parameter.mean(0), rtol=0, atol=1e-7)

    llm.save_pretrained(tmp_path / "again")
    again = LLMS[name][1].from_pretrained(tmp_path / "again")
    ids = torch.tensor([[3, size - 1, 4]])
    assert torch.equal(again(ids).logits, llm(ids).logits)


# Wrong targets of an adapter


def refuse(folder: Path, dev: Golden, **adapter_options: Any) -> str:
    with pytest.raises(UserError) as caught:
        SALMONN.from_config(list_options(folder, dev, **adapter_options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_targets_that_an_llm_lacks_are_told_with_those_it_has(dev: Golden, tmp_path: Path) -> None:
    write_llm(tmp_path, "neox")
    there = "dense, dense_4h_to_h, dense_h_to_4h, query_key_value"
    message = refuse(tmp_path, dev)  # SALMONN's own: q_proj and v_proj
    assert "q_proj, v_proj" in message
    assert "model.adapter_options.target_modules" in message
    assert there in message
    # One of several: peft alone would leave it out without a word.
    message = refuse(tmp_path, dev, target_modules=["query_key_value", "v_proj"])
    assert "no layer named v_proj" in message
    assert there in message
    assert there in refuse(tmp_path, dev, target_modules=".*nothing")


def test_a_path_within_the_llm_is_a_target(dev: Golden, tmp_path: Path) -> None:
    write_llm(tmp_path, "qwen2")
    options = list_options(tmp_path, dev, target_modules=["1.self_attn.q_proj"])
    names = [key for key in trainable_state(SALMONN.from_config(options)) if "lora_A" in key]
    assert len(names) == 1
