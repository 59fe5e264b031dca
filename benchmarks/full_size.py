"""Load random weights of the real shapes, and compare their bytes with those that are planned.

    python benchmarks/full_size.py FOLDER          # about 9 GB of disk and 12 GB of memory
    python benchmarks/full_size.py FOLDER --sizes OTHER_SIZES

Whisper, BEATs and the LLM of `configs/models` are written to FOLDER in half precision, and
loaded by the product's own loader on the processor, with `model.quantization: nf4`, then with
`encoder_dtype: int8` besides. Nothing is computed. Out: a table of bytes by part. What was
written is deleted at the end; FOLDER must not be there, or be empty.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from audiolm.errors import UserError, run_command

ROOT = Path(__file__).resolve().parents[1]

SETTINGS: dict[str, dict[str, str]] = {
    "nf4": {"quantization": "nf4"},
    "nf4, encoders in int8": {"quantization": "nf4", "encoder_dtype": "int8"},
}
FOLDERS = {"whisper": "whisper-large-v3", "beats": "beats", "llama": "llama-3.2-3b"}
# Parts of the plan -> parts of the measurement.
PARTS = {
    "Whisper": "whisper",
    "BEATs": "beats",
    "Q-Former": "qformer_and_projector",
    "projector": "qformer_and_projector",
    "LLM": "llm",
    "adapter": "adapters",
}
TEXTS = ("write down what the speaker says", "a train to the north leaves at half past seven")
SHARD_BYTES = 10**9
STD = 0.02


def main(arguments: Sequence[str]) -> int:
    """Write, load, compare, delete."""
    args = parse_arguments(arguments)
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise UserError(f"{args.folder} is not empty; give a folder to make, since it is deleted")
    try:
        write_stack(args.folder, args.sizes)
        for name, setting in SETTINGS.items():
            print(format_rows(name, *compare(args.folder, args.sizes, setting)), flush=True)
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the weights go; deleted at the end")
    parser.add_argument(
        "--sizes", type=Path, default=ROOT / "configs" / "models", help="folder of configurations"
    )
    return parser.parse_args(arguments)


def write_stack(folder: Path, sizes_dir: Path) -> None:
    """Random weights of the three models, in bfloat16, by their configurations alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from audiolm.models.beats import BEATs, BeatsConfig
    from audiolm.models.random_tokenizer import build_tokenizer, save_tokenizer

    sources = {name: sizes_dir / source / "config.json" for name, source in FOLDERS.items()}
    llm_config = AutoConfig.from_pretrained(sources["llama"].parent)
    beats_values = json.loads(sources["beats"].read_text(encoding="utf-8"))
    with torch.device("meta"):
        whisper = WhisperEncoder(WhisperConfig.from_pretrained(sources["whisper"].parent))
        beats = BEATs(BeatsConfig.from_dict(beats_values))
        llm = AutoModelForCausalLM.from_config(llm_config)
    tied = {"lm_head.weight"} if llm_config.tie_word_embeddings else set()
    encoder_shapes = {f"model.encoder.{name}": shape for name, shape in iterate_shapes(whisper)}
    llm_shapes = {name: shape for name, shape in iterate_shapes(llm) if name not in tied}
    for name, shapes in (("whisper", encoder_shapes), ("llama", llm_shapes)):
        (folder / name).mkdir(parents=True)
        shutil.copy(sources[name], folder / name)
        write_shards(folder / name, shapes)
    weights = {name: draw(shape) for name, shape in iterate_shapes(beats)}
    values = dataclasses.asdict(beats.config)
    torch.save({"cfg": values, "model": weights}, folder / "beats.pt")
    save_tokenizer(build_tokenizer(TEXTS, llm_config.vocab_size, fill=True), folder / "llama")


def iterate_shapes(model: Any) -> Iterator[tuple[str, Any]]:
    """Names and shapes of a model's weights."""
    for name, tensor in model.state_dict().items():
        yield name, tensor.shape


def draw(shape: Any) -> Any:
    """A random tensor in bfloat16."""
    import torch

    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=STD)


def write_shards(folder: Path, shapes: Mapping[str, Any]) -> None:
    """Safetensors files of about a gigabyte, with their index, as the hub has them."""
    from safetensors.torch import save_file

    shards: list[list[str]] = [[]]
    num_bytes = 0
    for name, shape in shapes.items():
        if num_bytes > SHARD_BYTES:
            shards.append([])
            num_bytes = 0
        shards[-1].append(name)
        num_bytes += 2 * shape.numel()
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file, names in zip(files, shards, strict=True):
        save_file({name: draw(shapes[name]) for name in names}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    total = 2 * sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=1), encoding="utf-8")


def compare(
    folder: Path, sizes_dir: Path, setting: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by part of the loaded model, and of the plan."""
    import torch

    from audiolm.config_file import build_model_config
    from audiolm.evaluation.memory import measure_weights
    from audiolm.models.build import build_salmonn
    from audiolm.training.model_shapes import build_meta_model, find_model_sources
    from audiolm.training.model_sizes import Packing, measure_parts

    paths = {"whisper_path": "whisper", "beats_path": "beats.pt", "llama_path": "llama"}
    options = build_model_config(
        {option: str(folder / name) for option, name in paths.items()} | dict(setting)
    )
    packing = Packing("nf4", has_int8_encoders=options.encoder_dtype == "int8")
    meta = build_meta_model(options, find_model_sources(options, sizes_dir), torch.bfloat16)
    planned: dict[str, int] = {}
    for part in measure_parts(meta, packing):
        name = PARTS[part.name]
        planned[name] = planned.get(name, 0) + part.num_bytes
    planned["total"] = sum(planned.values())
    measured = measure_weights(build_salmonn(options, dtype=torch.bfloat16))
    return measured, planned


def format_rows(name: str, measured: Mapping[str, int], planned: Mapping[str, int]) -> str:
    """A Markdown table in GiB."""
    lines = [f"\n{name}\n", "| part | measured GiB | planned GiB |", "|---|---|---|"]
    lines += [
        f"| {part} | {measured[part] / 2**30:.4f} | {planned.get(part, 0) / 2**30:.4f} |"
        for part in measured
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
