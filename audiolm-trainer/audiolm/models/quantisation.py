"""How frozen weights are kept: 4 or 8 bits in the LLM, `model.encoder_dtype` in the encoders.

All of it is bitsandbytes'. Nothing falls back: what a device or a machine lacks is a `UserError`
that says what to use.
"""

import importlib
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from audiolm.config import ModelConfig
from audiolm.errors import UserError

FLOAT_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_llm_quantisation(
    quantization: str, dtype: torch.dtype, *, is_double: bool
) -> BitsAndBytesConfig:
    """transformers' description of int8 or nf4 weights; `is_double`: nf4's maxima in 8 bits too.

    Raises:
        UserError: bitsandbytes is missing.
    """
    _import_bitsandbytes(f"model.quantization: {quantization}")
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=is_double,
    )


def choose_encoder_dtype(
    options: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> torch.dtype:
    """The number type that frozen encoders compute in; `dtype` is that of the other frozen parts.

    `auto` takes `dtype`, and so does int8, in everything but the weights of linear layers.

    Raises:
        UserError: a type the device does not have, or one below float32 for an encoder that trains.
    """
    name = options.encoder_dtype
    if name in ("auto", "fp32"):
        return dtype if name == "auto" else torch.float32
    trained = {"freeze_whisper": options.freeze_whisper}
    if options.beats_path:
        trained["freeze_beats"] = options.freeze_beats
    for option, is_frozen in trained.items():
        if not is_frozen:
            raise UserError(
                f"model.encoder_dtype: {name}, but model.{option}: false trains that encoder, in "
                "float32; use auto, or freeze it"
            )
    device = torch.device(device)
    if name == "fp16" and device.type == "cpu":
        raise UserError(
            "model.encoder_dtype: fp16 is for GPUs; on a processor use fp32 (fastest) or int8 "
            "(smallest), or bf16 where it has instructions for it"
        )
    is_planned = device.type == "cuda" and not torch.cuda.is_available()  # for another machine
    if name == "bf16" and device.type == "cuda" and not is_planned:
        _check_bfloat16()
    return dtype if name == "int8" else FLOAT_TYPES[name]


def _check_bfloat16() -> None:
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("model.encoder_dtype: this GPU has no bf16; use fp16, int8 or fp32")


def quantise_linears(part: nn.Module, device: torch.device | str) -> None:
    """Put the weights of a frozen encoder's linear layers in 8 bits, in place, on `device`.

    Rows of weights and of activations have a scale each (Dettmers et al. 2022, "LLM.int8()",
    section 2.1). The paper's second path, for columns that are large somewhere in the batch, is
    off: with it a clip's result would depend on its batch mates.

    Raises:
        UserError: bitsandbytes is missing.
    """
    bitsandbytes = _import_bitsandbytes("model.encoder_dtype: int8")
    names = [name for name, module in part.named_modules() if type(module) is nn.Linear]
    for name in names:
        linear = part.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        with torch.device("meta"):
            packed = bitsandbytes.nn.Linear8bitLt(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                has_fp16_weights=False,
                threshold=0.0,
            )
        packed.weight = bitsandbytes.nn.Int8Params(
            linear.weight.detach(), requires_grad=False, has_fp16_weights=False
        ).to(device)
        packed.bias = linear.bias
        part.set_submodule(name, packed.requires_grad_(False).train(linear.training))


def _import_bitsandbytes(option: str) -> Any:
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise UserError(f"{option} needs bitsandbytes; pip install bitsandbytes") from error
