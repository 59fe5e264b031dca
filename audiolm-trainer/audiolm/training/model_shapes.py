"""The model without its weights: the very modules on torch's meta device.

In: configuration files. A folder's own `config.json` (and a BEATs file's own `cfg`) is used where
the options point to one. Where they point to nothing yet, the published sizes under
`configs/models` stand in, matched by name, so that a run can be planned before any download.
"""

import copy
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm.config import ModelConfig
from audiolm.errors import UserError
from audiolm.json_file import load_json
from audiolm.models.beats import BEATs, BeatsConfig
from audiolm.models.beats_file import load_beats_file
from audiolm.models.build import adapt_llm, assemble_salmonn, mixes_layers
from audiolm.models.encoding import EncoderSizes
from audiolm.models.llm import load_tokenizer
from audiolm.models.pretrained import explained_errors
from audiolm.models.salmonn import SALMONN

# What a path's last part looks like -> folder under `configs/models`.
SHIPPED: dict[str, tuple[tuple[str, str], ...]] = {
    "model.whisper_path": ((r"whisper-large-v3", "whisper-large-v3"),),
    "model.beats_path": ((r"beats_iter3", "beats"),),
    "model.llama_path": ((r"llama-3\.2-3b", "llama-3.2-3b"),),
}
TOKENS_NAME = "tokens.json"


@dataclass(frozen=True)
class ModelSources:
    """Configurations of the three models, and the tokenizer where it is at hand.

    `num_tokens` is the number of embedding rows the tokenizer asks for; None: as the LLM has.
    `notes` say where sizes are from, when not from the user's own files.
    """

    whisper: WhisperConfig
    beats: BeatsConfig | None
    llm: Any
    tokenizer: Any
    num_tokens: int | None
    notes: tuple[str, ...]


def find_model_sources(model: ModelConfig, shipped_dir: Path) -> ModelSources:
    """Read the models' configuration files; `shipped_dir` holds the published sizes.

    Raises:
        UserError: nothing at a path, and no shipped sizes of that name; or a file of another kind.
    """
    notes: list[str] = []
    whisper_dir = _find_folder("model.whisper_path", model.whisper_path, shipped_dir, notes)
    whisper = _read_whisper(whisper_dir or model.whisper_path, model.token)
    beats = _read_beats(model.beats_path, shipped_dir, notes) if model.beats_path else None
    llm_dir = _find_folder("model.llama_path", model.llama_path, shipped_dir, notes)
    llm_path = str(llm_dir or model.llama_path)
    with explained_errors("model.llama_path", llm_path):
        llm = AutoConfig.from_pretrained(llm_path, token=model.token or None)
    tokenizer, num_tokens = None, None
    if llm_dir is not None and (llm_dir / TOKENS_NAME).is_file():
        facts = load_json(llm_dir / TOKENS_NAME, "facts about a tokenizer")
        num_tokens = facts["num_tokens"] + (0 if facts["has_padding_token"] else 1)
    elif llm_dir is None or (llm_dir / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(llm_path, model.token)
        num_tokens = len(tokenizer)
    else:
        notes.append(f"model.llama_path: {llm_dir} holds no tokenizer; token counts are estimates")
    return ModelSources(whisper, beats, llm, tokenizer, num_tokens, tuple(notes))


def _find_folder(option: str, path: str, shipped_dir: Path, notes: list[str]) -> Path | None:
    """Where config.json is: the user's folder, the hub's cache, or shipped; None: ask the hub."""
    if not path:
        raise UserError(f"{option} is not set; give it in the file or with --options {option}=PATH")
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            raise UserError(f"{option}: {path} holds no config.json; download the model's")
        return Path(path)
    if re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path):
        cached = try_to_load_from_cache(path, "config.json")
        if isinstance(cached, str):
            return Path(cached).parent
    shipped = _match_shipped(option, path, shipped_dir)
    if shipped is not None:
        notes.append(f"{option}: nothing at {path} yet; published sizes of {shipped.name} used")
        return shipped
    if Path(path).is_absolute() or path.count("/") != 1 or path.startswith("."):
        raise UserError(
            f"{option}: nothing at {path}, and no sizes of that name are shipped "
            f"({_list_shipped(option)}); download the model's config.json and give its folder"
        )
    return None


def _match_shipped(option: str, path: str, shipped_dir: Path) -> Path | None:
    for pattern, folder in SHIPPED[option]:
        if re.match(pattern, Path(path).name, re.IGNORECASE):
            if not (shipped_dir / folder / "config.json").is_file():
                raise UserError(
                    f"{option}: nothing at {path}, and no {shipped_dir / folder}/config.json; "
                    "run from a checkout, which ships it, or give the model's folder"
                )
            return shipped_dir / folder
    return None


def _list_shipped(option: str) -> str:
    return "shipped: " + ", ".join(folder for _, folder in SHIPPED[option])


def _read_whisper(path: Path | str, token: str) -> WhisperConfig:
    with explained_errors("model.whisper_path", str(path)):
        raw, _ = WhisperConfig.get_config_dict(str(path), token=token or None)
    if raw.get("model_type") != "whisper":
        raise UserError(
            f"model.whisper_path: {path} holds a {raw.get('model_type')!r} model, "
            "expected 'whisper'; give a Whisper folder"
        )
    return WhisperConfig.from_dict(raw)


def _read_beats(path: str, shipped_dir: Path, notes: list[str]) -> BeatsConfig:
    if Path(path).is_file():
        return BeatsConfig.from_dict(load_beats_file(path)[0])
    shipped = _match_shipped("model.beats_path", path, shipped_dir)
    if shipped is None:
        raise UserError(
            f"model.beats_path: no file at {path}, and no sizes of that name are shipped "
            f"({_list_shipped('model.beats_path')}); download the .pt, or leave the option empty"
        )
    notes.append(f"model.beats_path: nothing at {path} yet; published sizes of {shipped.name} used")
    return BeatsConfig.from_dict(json.loads((shipped / "config.json").read_text(encoding="utf-8")))


def build_meta_model(
    model: ModelConfig,
    sources: ModelSources,
    dtype: torch.dtype = torch.float32,
    encoder_dtype: torch.dtype | None = None,
) -> SALMONN:
    """The model of `models.build`, with tensors that have a shape and a type but no memory.

    `dtype` is of frozen weights, before quantisation, and `encoder_dtype` of frozen encoders where
    that is another; what trains is float32.
    """
    encoder_dtype = encoder_dtype or dtype
    options = copy.deepcopy(model)
    options.prompt_path, options.gradient_checkpointing = "", "none"
    with torch.device("meta"):
        # Loading, unlike building, lets the position table train with the rest.
        whisper: Any = WhisperEncoder(sources.whisper).requires_grad_(True)
        whisper = whisper.to(encoder_dtype if options.freeze_whisper else torch.float32)
        beats = BEATs(sources.beats) if sources.beats is not None else None
        if beats is not None:
            beats = beats.to(encoder_dtype if options.freeze_beats else torch.float32)
        llm = None
        if not options.only_preprocessor:
            llm_dtype = dtype if options.freeze_llm else torch.float32
            llm = AutoModelForCausalLM.from_config(sources.llm, dtype=llm_dtype)
            embeddings = llm.get_input_embeddings()
            if (sources.num_tokens or 0) > embeddings.num_embeddings:
                llm.resize_token_embeddings(sources.num_tokens, mean_resizing=False)
            llm = adapt_llm(options, llm.requires_grad_(False))
        width = sources.llm.get_text_config().hidden_size
        encoder_sizes = EncoderSizes.of(
            sources.whisper,
            beats.embed_dim if beats else 0,
            mixes_layers=mixes_layers(options),
        )
        return assemble_salmonn(
            options, whisper, beats, encoder_sizes, llm, sources.tokenizer, width
        )
