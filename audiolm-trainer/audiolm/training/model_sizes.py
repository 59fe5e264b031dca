"""Parameters and bytes of each part of a model, and the dimensions its working memory depends on.

In: a model whose tensors may be on the meta device. Out: counts that equal the built model's to the
last parameter, and bytes as they will be loaded: by number type and quantisation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from audiolm.models.beats import BeatsConfig
from audiolm.models.checkpoint import ADAPTER_MARKS
from audiolm.models.salmonn import SALMONN

PARTS: dict[str, tuple[str, ...]] = {  # name -> how its parameters begin
    "Whisper": ("speech_encoder.",),
    "BEATs": ("beats.",),
    "Q-Former": ("speech_Qformer.", "speech_query_tokens", "speech_layer_weights", "ln_"),
    "projector": ("speech_llama_proj.",),
    "LLM": ("llama_model.",),
    "adapter": (),  # the LLM's parameters with one of `ADAPTER_MARKS` in their names
}
ENCODERS = ("Whisper", "BEATs")
MIN_SHARE = 0.01  # number types of fewer bytes are not named
SAME_INPUT = {"attention": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj")}
TYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

# bitsandbytes' constants: weights share a float32 maximum in blocks of 64, a layer has a table of
# 16 float32 values. Double quantisation keeps the maxima in 8 bits, with a float32 maximum for 256
# of them, and a mean and a table of 256 values per layer. An int8 row has a float32 scale. Its
# 8-bit optimiser leaves small tensors alone.
NF4_BLOCK = 64
NF4_NESTED_BLOCK = 256
NF4_NESTED_BYTES = 4 + 256 * 4  # mean and table
NF4_TABLE_BYTES = 16 * 4
ADAM8_BLOCK = 256
ADAM8_MIN_NUMEL = 4096


@dataclass(frozen=True)
class PartSize:
    """One part: parameters, how many of them train, and bytes of weights and buffers."""

    name: str
    num_parameters: int
    num_trained: int
    num_bytes: int
    number_type: str
    why: str


@dataclass(frozen=True)
class AdaptedLayer:
    """A linear layer's sizes; layers of one `source` read the same numbers."""

    num_inputs: int
    num_outputs: int
    source: str


@dataclass(frozen=True)
class Dimensions:
    """Widths and depths. `adapted` holds the layers that the adapter is on."""

    whisper: Any
    beats: BeatsConfig | None
    qformer: Any
    num_queries: int
    llm: Any
    vocabulary: int
    adapted: tuple[AdaptedLayer, ...]
    adapter_rank: int
    largest_llm_matrix: int  # elements
    largest_trained: int  # elements of one tensor
    frame_width: int  # of both streams side by side
    num_mixed: int  # hidden states of Whisper in the second stream; 0: no mix

    @property
    def head_dim(self) -> int:
        llm = self.llm
        return getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads


@dataclass(frozen=True)
class ModelSizes:
    """A model, which may be on the meta device, and its dimensions."""

    model: SALMONN
    dims: Dimensions

    @classmethod
    def of(cls, model: SALMONN, llm_config: Any) -> "ModelSizes":
        """`llm_config` is asked where the model has no LLM."""
        return cls(model, read_dimensions(model, llm_config))

    @property
    def trained_shapes(self) -> list[torch.Size]:
        """Of each tensor that trains."""
        return [p.shape for p in self.model.parameters() if p.requires_grad]

    @property
    def num_trained(self) -> int:
        return sum(shape.numel() for shape in self.trained_shapes)

    def measure_checkpoint(self) -> int:
        """Bytes of a checkpoint: what trains, and AdamW's two moments, in float32."""
        return 3 * 4 * self.num_trained


@dataclass(frozen=True)
class Packing:
    """What is in 4 or 8 bits: the LLM by `model.quantization`, encoders with `encoder_dtype: int8`.

    `is_double`: nf4's block maxima are in 8 bits too.
    """

    llm: str = "none"
    is_double: bool = True
    has_int8_encoders: bool = False


def measure_parts(model: SALMONN, packing: Packing = Packing()) -> list[PartSize]:
    """Sizes of the parts that the model has, in the order of `PARTS`."""
    tensors: dict[str, list[tuple[nn.Parameter | torch.Tensor, bool]]] = {n: [] for n in PARTS}
    packed = _find_quantised(model) if packing.llm != "none" else set()
    if packing.has_int8_encoders:
        packed |= _find_encoder_linears(model)
    for name, tensor in _unique_tensors(model):
        tensors[_find_part(name)].append((tensor, id(tensor) in packed))
    int8 = Packing("int8")
    return [
        _measure_part(name, found, int8 if name in ENCODERS else packing)
        for name, found in tensors.items()
        if found
    ]


def _measure_part(
    name: str, tensors: list[tuple[nn.Parameter | torch.Tensor, bool]], packing: Packing
) -> PartSize:
    parameters = [(t, is_packed) for t, is_packed in tensors if isinstance(t, nn.Parameter)]
    plain = [tensor for tensor, is_packed in tensors if not is_packed]
    packed = [tensor for tensor, is_packed in tensors if is_packed]
    by_type: dict[torch.dtype, int] = {}
    for tensor in plain:
        by_type[tensor.dtype] = by_type.get(tensor.dtype, 0) + tensor.numel()
    num_bytes = sum(dtype.itemsize * numel for dtype, numel in by_type.items())
    reasons = [f"{numel:,} x {dtype.itemsize} bytes" for dtype, numel in by_type.items() if numel]
    types = [
        TYPE_NAMES.get(dtype, str(dtype))
        for dtype, numel in by_type.items()
        if dtype.itemsize * numel > MIN_SHARE * num_bytes
    ]
    if packed:
        num_packed = sum(tensor.numel() for tensor in packed)
        num_bytes += sum(packed_bytes(tensor.shape, packing) for tensor in packed)
        types.insert(0, packing.llm)
        reasons.insert(0, f"{num_packed:,} x {_describe_packing(packing)}")
    return PartSize(
        name,
        sum(tensor.numel() for tensor, _ in parameters),
        sum(tensor.numel() for tensor, _ in parameters if tensor.requires_grad),
        num_bytes,
        " + ".join(dict.fromkeys(types)),
        " + ".join(reasons),
    )


def packed_bytes(shape: torch.Size, packing: Packing) -> int:
    """Bytes of a quantised weight (rows, columns) as bitsandbytes loads it, with its constants."""
    numel = shape.numel()
    if packing.llm == "int8":
        return numel + 4 * shape[0]
    num_maxima = math.ceil(numel / NF4_BLOCK)
    maxima = 4 * num_maxima
    if packing.is_double:
        maxima = num_maxima + 4 * math.ceil(num_maxima / NF4_NESTED_BLOCK) + NF4_NESTED_BYTES
    return math.ceil(numel / 2) + maxima + NF4_TABLE_BYTES


def _describe_packing(packing: Packing) -> str:
    if packing.llm == "int8":
        return "1 byte and 4 per row (embeddings, convolutions and norms stay)"
    if packing.is_double:
        return "0.5159 bytes (4 bits, an 8-bit maximum per 64 weights; embedding and norms stay)"
    return "0.5625 bytes (4 bits, a float32 maximum per 64 weights; embedding and norms stay)"


def _find_quantised(model: SALMONN) -> set[int]:
    """The LLM's own linear layers; bitsandbytes leaves the output layer as it is."""
    if model.llama_model is None:
        return set()
    output = model.llm.get_output_embeddings()
    return {
        id(module.weight)
        for name, module in model.llm.named_modules()
        if isinstance(module, nn.Linear) and module is not output and not _is_adapter(name)
    }


def _find_encoder_linears(model: SALMONN) -> set[int]:
    parts: list[Any] = [model.speech_encoder, model.beats]
    return {
        id(module.weight)
        for part in parts
        if part is not None
        for module in part.modules()
        if isinstance(module, nn.Linear)
    }


def _is_adapter(name: str) -> bool:
    return any(mark in f".{name}" for mark in ADAPTER_MARKS.values())


def _find_part(name: str) -> str:
    part = next(part for part, begins in PARTS.items() if name.startswith(begins))
    return "adapter" if part == "LLM" and _is_adapter(name) else part


def _unique_tensors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter | torch.Tensor]]:
    """Parameters and buffers by name, each once, whoever shares it."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def read_dimensions(model: SALMONN, llm_config: Any) -> Dimensions:
    """Dimensions of a built or meta model; `llm_config` for one without an LLM."""
    text_config = llm_config.get_text_config()
    layers = [] if model.llama_model is None else list(model.llm.modules())
    matrices = [m.weight.numel() for m in layers if isinstance(m, nn.Linear)]
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    queries = model.speech_query_tokens
    rows = text_config.vocab_size
    if model.llama_model is not None:
        rows = model.llm.get_input_embeddings().num_embeddings
    peft_configs = getattr(model.llama_model, "peft_config", {})
    assert isinstance(peft_configs, dict)
    return Dimensions(
        whisper=model.speech_encoder.config,
        beats=model.beats.config if model.beats is not None else None,
        qformer=model.speech_Qformer.config if model.speech_Qformer is not None else None,
        num_queries=queries.shape[1] if queries is not None else 1,
        llm=text_config,
        vocabulary=rows,
        adapted=tuple(_iterate_adapted(model.llama_model)),
        adapter_rank=max((config.r for config in peft_configs.values()), default=0),
        largest_llm_matrix=max(matrices, default=0),
        largest_trained=max(trained, default=0),
        frame_width=model.encoder_sizes.frame_width,
        num_mixed=model.encoder_sizes.num_mixed,
    )


def _iterate_adapted(llm: nn.Module | None) -> Iterator[AdaptedLayer]:
    for name, module in llm.named_modules() if llm is not None else ():
        if isinstance(module, BaseTunerLayer):
            parent, _, own = name.rpartition(".")
            shared = next((source for source, names in SAME_INPUT.items() if own in names), own)
            base: Any = module.get_base_layer()
            yield AdaptedLayer(base.in_features, base.out_features, f"{parent}.{shared}")


def adam8_bytes(shapes: list[torch.Size]) -> int:
    """Bytes of an 8-bit AdamW's state: two a weight, and float32 maxima per block of 256."""
    total = 0
    for shape in shapes:
        numel = shape.numel()
        is_small = numel < ADAM8_MIN_NUMEL
        total += 8 * numel if is_small else 2 * (numel + 4 * math.ceil(numel / ADAM8_BLOCK))
    return total
