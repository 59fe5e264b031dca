"""The random stacks load with the tools of the real models, and their weights can learn."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    LlamaForCausalLM,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from audiolm.errors import UserError
from audiolm.models.beats import BEATs
from audiolm.models.checkpoint import read_checkpoint
from audiolm.models.random_stack import (
    MIDSIZE,
    NANO,
    TINY,
    StackPaths,
    StackSize,
    build_random_stack,
)
from audiolm.models.random_tokenizer import SPECIAL_TOKENS, build_tokenizer

ROOT = Path(__file__).resolve().parents[1]
GOLDEN_DIR = Path(__file__).resolve().parent / "data" / "golden"
TEXTS = ("USER: <Speech> </Speech> transcribe the speech", "a dog barks while rain falls")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StackPaths:
    return build_random_stack(tmp_path_factory.mktemp("tiny"), TINY, texts=TEXTS, seed=0)


def load_with_report(model_class: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    return model_class.from_pretrained(path, output_loading_info=True)


def test_whisper_folder_is_a_whole_whisper(tiny: StackPaths) -> None:
    model, report = load_with_report(WhisperForConditionalGeneration, tiny.whisper_path)
    assert not any(report.values())
    assert model.config.encoder_layers == 2
    keys = load_file(tiny.whisper_path / "model.safetensors").keys()
    assert {key.split(".")[1] for key in keys} == {"encoder", "decoder"}
    assert all(key.startswith("model.") for key in keys)  # no proj_out: it is tied
    extractor = WhisperFeatureExtractor.from_pretrained(tiny.whisper_path)
    assert extractor.feature_size == model.config.num_mel_bins == 80


def test_llama_folder(tiny: StackPaths) -> None:
    model, report = load_with_report(LlamaForCausalLM, tiny.llama_path)
    assert not any(report.values())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tokenizer = AutoTokenizer.from_pretrained(tiny.llama_path)
    assert len(tokenizer) == model.config.vocab_size
    end_ids = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"])
    assert model.config.eos_token_id == model.generation_config.eos_token_id == end_ids
    assert model.config.rope_parameters["rope_type"] == "llama3"
    assert model.config.rope_parameters["rope_theta"] == 500_000.0


def test_llama_folder_has_the_form_of_the_golden_one(tiny: StackPaths) -> None:
    golden = GOLDEN_DIR / "dev" / "components" / "llama"
    assert {path.name for path in tiny.llama_path.iterdir()} == {
        path.name for path in golden.iterdir()
    }

    def read(folder: Path, name: str) -> dict:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    for name in ("special_tokens_map.json", "generation_config.json", "config.json"):
        ours, theirs = read(tiny.llama_path, name).keys(), read(golden, name).keys()
        assert theirs - ours <= {"transformers_version", "pretraining_tp"}, name
    ours, theirs = (read(folder, "tokenizer.json") for folder in (tiny.llama_path, golden))
    for part in ("pre_tokenizer", "normalizer", "truncation", "padding"):
        assert ours[part] == theirs[part], part
    assert [token["content"] for token in ours["added_tokens"]] == [
        token["content"] for token in theirs["added_tokens"]
    ]


def test_tokenizer_behaves_as_llamas(tiny: StackPaths) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.llama_path)
    assert tokenizer.pad_token is None
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin_of_text|>", "<|eot_id|>")
    for text in (*TEXTS, "Zürich  costs 1,250!\n 서울", "<Speech>x</Speech>"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer(text, add_special_tokens=False).input_ids == ids[1:]
    ids = tokenizer("rain<|end_of_text|>", add_special_tokens=False).input_ids
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))[-10:] == list(
        SPECIAL_TOKENS
    )


def test_filled_vocabulary_is_exact_and_unreachable() -> None:
    tokenizer = build_tokenizer(TEXTS, 2_000, fill=True)
    assert tokenizer.get_vocab_size() == 2_000
    assert tokenizer.token_to_id(SPECIAL_TOKENS[-1]) == 1_999
    unused = {index for token, index in tokenizer.get_vocab().items() if "<unused" in token}
    ids = tokenizer.encode(f"<unused_{min(unused)}> {TEXTS[0]}").ids
    assert not unused & set(ids)
    assert ids[-6:] == build_tokenizer(TEXTS, 2_000).encode(TEXTS[0]).ids[-6:]


def test_beats_file(tiny: StackPaths) -> None:
    content = torch.load(tiny.beats_path, weights_only=True)
    golden = torch.load(GOLDEN_DIR / "dev" / "components" / "beats.pt", weights_only=True)
    assert content.keys() == golden.keys()
    assert content["cfg"] == golden["cfg"]
    assert {name: tensor.shape for name, tensor in content["model"].items()} == {
        name: tensor.shape for name, tensor in golden["model"].items()
    }
    assert BEATs.from_checkpoint(tiny.beats_path).embed_dim == 48


def test_same_seed_same_files(tiny: StackPaths, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    same = build_random_stack(tmp_path / "same", TINY, texts=TEXTS, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's random state is kept
    other = build_random_stack(tmp_path / "other", TINY, texts=TEXTS, seed=1)
    for name in ("whisper/model.safetensors", "llama/model.safetensors", "llama/tokenizer.json"):
        files = [path.beats_path.parent / name for path in (tiny, same, other)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert (files[0].read_bytes() == files[2].read_bytes()) == name.endswith("json")
    weights = [torch.load(path.beats_path, weights_only=True)["model"] for path in (tiny, same)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_complete_stack_is_reused_and_an_unfinished_one_redone(tmp_path: Path) -> None:
    paths = build_random_stack(tmp_path, TINY, texts=TEXTS, seed=0)
    content = paths.beats_path.read_bytes()
    paths.beats_path.write_bytes(b"marked")
    build_random_stack(tmp_path, TINY, texts=TEXTS, seed=0)
    assert paths.beats_path.read_bytes() == b"marked"
    with pytest.raises(UserError, match=r"another size, seed or texts .*delete it or choose"):
        build_random_stack(tmp_path, TINY, texts=TEXTS, seed=1)
    (tmp_path / "stack.json").unlink()
    build_random_stack(tmp_path, TINY, texts=TEXTS, seed=0)
    assert len(paths.beats_path.read_bytes()) == len(content)


@pytest.mark.parametrize("size", [TINY, NANO], ids=lambda size: size.name)
def test_fan_in_weights_let_the_audio_through(size: StackSize, tmp_path: Path) -> None:
    """With std 0.02 two different sounds look alike to an untrained Whisper."""
    generator = torch.Generator().manual_seed(0)
    log_mel = torch.randn(2, 80, 3000, generator=generator) * 0.5
    differences = {}
    for init in ("fan_in", "default"):
        paths = build_random_stack(tmp_path / init, size, texts=TEXTS, seed=0, init=init)
        whisper = WhisperForConditionalGeneration.from_pretrained(paths.whisper_path)
        encoder = whisper.get_encoder().eval()
        with torch.no_grad():
            first, second = encoder(log_mel).last_hidden_state
        differences[init] = float((first - second).square().mean().sqrt() / first.std())
    assert differences["fan_in"] > 0.3
    assert differences["default"] < differences["fan_in"] / 5


def test_midsize_is_the_stack_of_the_timings() -> None:
    stack = json.loads((GOLDEN_DIR / "bench.json").read_text())["stack"]
    assert dict(MIDSIZE.whisper).items() <= stack["whisper"].items()
    assert dict(MIDSIZE.beats).items() <= stack["beats"].items()
    assert dict(MIDSIZE.llama).items() <= stack["llama"].items()
    assert MIDSIZE.num_tokens == stack["llama"]["vocab_size"]
    assert MIDSIZE.fill_vocabulary


def test_command_line(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS), encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = ROOT / "scripts" / "make_nano_stack.py"
        command = [sys.executable, str(script), "-o", str(tmp_path / "stack"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("--texts", str(texts), "--size", "tiny", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "llama_path: " in done.stdout
    assert (tmp_path / "stack" / "llama" / "tokenizer.json").is_file()
    failed = run("--texts", str(tmp_path / "nowhere.txt"))
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: --texts: no such file")


def test_connector_of_another_audio_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    main = importlib.import_module("make_nano_stack").main
    texts, config = tmp_path / "texts.txt", str(ROOT / "configs" / "nano_train_stage1.yaml")
    texts.write_text("\n".join(TEXTS), encoding="utf-8")
    arguments = ["--texts", str(texts), "--size", "tiny", "-o", str(tmp_path)]
    layers, none = "model.audio_encoder=whisper_layers", "model.audio_encoder=none"

    with pytest.raises(UserError, match="--options change the configuration of --connector"):
        main([*arguments, "--options", none])
    for _ in range(2):  # the second leaves what is there
        assert main([*arguments, "--connector", config, "--options", none]) == 0
    assert f"connector: {tmp_path / 'connector.pth'}" in capsys.readouterr().out
    weights = read_checkpoint(tmp_path / "connector.pth")["model"]
    (width,) = {
        weight.shape[1]
        for key, weight in weights.items()
        if "crossattention.self.key.weight" in key
    }
    assert width == TINY.whisper["d_model"]  # BEATs would add its own
    with pytest.raises(UserError, match="written for another configuration; give another folder"):
        main([*arguments, "--connector", config, "--options", layers])
