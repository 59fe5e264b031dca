"""A Whisper folder, a BEATs `.pt` and a Llama folder: random weights in the real ones' formats.

In: a size, training texts for the tokenizer, a seed. Out, in one folder:

    whisper/     config.json, model.safetensors (encoder and decoder), preprocessor_config.json
    beats.pt     {"cfg", "model", "label_dict"} under the released names
    llama/       config.json, generation_config.json, model.safetensors, tokenizer files
    stack.json   written last: what the folder was made from

Tests, benchmarks and the demo run on such stacks. `TINY` is for tests, `NANO` can learn the demo
tasks within minutes, `MIDSIZE` is the stack of the published timings.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from audiolm.errors import UserError
from audiolm.models.beats import BEATs, BeatsConfig, PositionalConvolution
from audiolm.models.beats_file import BIAS_NAME
from audiolm.models.random_tokenizer import END_TOKENS, build_tokenizer, save_tokenizer
from audiolm.models.stack_sizes import MIDSIZE, NANO, STACK_SIZES, TINY, StackSize

__all__ = [
    "MIDSIZE",
    "NANO",
    "STACK_SIZES",
    "TINY",
    "StackPaths",
    "StackSize",
    "build_random_stack",
]

Initialisation = Literal["fan_in", "default"]
POSITION_SCALE = (
    0.3  # of Whisper's sinusoids: at full scale they drown the log-mel of an untrained model
)
TOKEN_EMBEDDING_STD = 0.3
NUM_BEATS_CLASSES = 527  # AudioSet's, of the fine-tuned files' classifier head
MANIFEST_NAME = "stack.json"


@dataclasses.dataclass(frozen=True)
class StackPaths:
    """Where the parts of a stack are; each can be given to the config key of the same name."""

    whisper_path: Path
    beats_path: Path
    llama_path: Path


def build_random_stack(
    out_dir: str | Path,
    size: StackSize,
    *,
    texts: Sequence[str],
    seed: int,
    init: Initialisation = "fan_in",
) -> StackPaths:
    """Write a stack, or reuse the one in `out_dir` if it was made from the same arguments.

    Args:
        out_dir: folder to fill; made if missing.
        size: `TINY`, `NANO`, `MIDSIZE` or one of your own.
        texts: what the byte-level BPE is trained on: prompts and answers.
        seed: of all weights; the global random state is left as it was.
        init: "fan_in" scales every matrix by its fan-in, so that an untrained stack passes a signal
            and can be trained from scratch; "default" is what the libraries draw (std 0.02).

    Raises:
        UserError: `out_dir` holds a complete stack made from other arguments.
    """
    folder = Path(out_dir)
    paths = StackPaths(folder / "whisper", folder / "beats.pt", folder / "llama")
    manifest = {
        "size": json.loads(json.dumps(dataclasses.asdict(size))),
        "seed": seed,
        "init": init,
        "texts_sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
    }
    manifest_path = folder / MANIFEST_NAME
    if manifest_path.is_file():
        if json.loads(manifest_path.read_text(encoding="utf-8")) == manifest:
            return paths
        raise UserError(
            f"{folder} holds a stack made from another size, seed or texts "
            f"(see {MANIFEST_NAME} in it); delete it or choose another folder"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _write_whisper(paths.whisper_path, size, init)
        _write_beats(paths.beats_path, size, init)
        _write_llama(paths.llama_path, size, texts, init)
    _write_json(manifest_path, manifest)
    return paths


def initialise_by_fan_in(model: nn.Module) -> None:
    """Redraw the weights: Xavier linears, Kaiming convolutions, small positions, visible tokens."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, PositionalConvolution):
            nn.init.kaiming_normal_(module.weight_v)
            module.weight_g.data = module.weight_v.data.norm(dim=(0, 1), keepdim=True)
        elif name.endswith("embed_positions"):
            module.weight.data *= POSITION_SCALE  # pyright: ignore[reportOperatorIssue]
        elif name.endswith("embed_tokens"):
            nn.init.normal_(module.weight, std=TOKEN_EMBEDDING_STD)  # pyright: ignore[reportArgumentType]
        else:
            continue
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]


def _write_whisper(folder: Path, size: StackSize, init: Initialisation) -> None:
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "max_source_positions": 1500,
        "activation_function": "gelu",
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "begin_suppress_tokens": None,
        "decoder_start_token_id": 2,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        **size.whisper,
    }
    model = WhisperForConditionalGeneration(WhisperConfig(**config))
    if init == "fan_in":
        initialise_by_fan_in(model)
    _write_model(folder, config, model, tied_name="proj_out.weight")
    WhisperFeatureExtractor(feature_size=size.whisper["num_mel_bins"]).save_pretrained(folder)


def _write_beats(path: Path, size: StackSize, init: Initialisation) -> None:
    config = BeatsConfig(**size.beats)  # pyright: ignore[reportArgumentType]
    model = BEATs(config)
    if init == "fan_in":
        initialise_by_fan_in(model)
    weights = dict(model.state_dict())
    for index in range(1, config.encoder_layers):
        weights[BIAS_NAME.format(index)] = weights[BIAS_NAME.format(0)]
    head = nn.Linear(config.encoder_embed_dim, NUM_BEATS_CLASSES)
    weights |= {"predictor.weight": head.weight.detach(), "predictor.bias": head.bias.detach()}
    values = dataclasses.asdict(config) | {
        "encoder_layerdrop": 0.05,
        "layer_wise_gradient_decay_ratio": 0.6,
        "finetuned_model": True,
        "predictor_dropout": 0.0,
        "predictor_class": NUM_BEATS_CLASSES,
    }
    labels = {index: f"/m/random{index:03d}" for index in range(NUM_BEATS_CLASSES)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"cfg": values, "model": weights, "label_dict": labels}, path)


def _write_llama(folder: Path, size: StackSize, texts: Sequence[str], init: Initialisation) -> None:
    tokenizer = build_tokenizer(texts, size.num_tokens, fill=size.fill_vocabulary)
    save_tokenizer(tokenizer, folder)
    special = {
        "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
        "eos_token_id": [tokenizer.token_to_id(token) for token in END_TOKENS],
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **special,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": tokenizer.get_vocab_size(),
        **size.llama,
    }
    model = LlamaForCausalLM(LlamaConfig(**config))
    if init == "fan_in":
        initialise_by_fan_in(model)
    _write_model(folder, config, model, tied_name="lm_head.weight")
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    _write_json(folder / "generation_config.json", special | sampling)


def _write_model(folder: Path, config: dict[str, Any], model: nn.Module, tied_name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != tied_name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
