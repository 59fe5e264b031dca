"""Adapters of the LLM, by peft, which is imported where one is made: other models need none."""

import warnings
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from audiolm.errors import UserError
from audiolm.models.activation_checkpointing import set_layers_training
from audiolm.models.adapter_targets import check_targets, list_targets

ATTENTION_PROJECTIONS = ["q_proj", "v_proj"]
NUM_PROBE_TOKENS = 16
# Largest change of the logits that rounding explains, as a share of the largest logit.
MERGE_TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
ALL_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def attach_adapter(
    llm: PreTrainedModel,
    adapter: str,
    *,
    rank: int = 8,
    alpha: int = 32,
    dropout: float = 0.1,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """Wrap the LLM with a peft adapter: lora, dora, vblora, hra, or none (the LLM itself).

    `options` go to peft's configuration class and win over the other arguments.

    Raises:
        UserError: an option peft does not have, or target modules this LLM does not have.
    """
    if adapter == "none":
        return llm
    import peft

    config_class, defaults = _adapter_defaults(adapter, rank, alpha, dropout)
    arguments = {"task_type": "CAUSAL_LM", **defaults, **(options or {})}
    check_targets(
        llm, arguments.get("target_modules"), are_defaults=not (options or {}).get("target_modules")
    )
    try:
        with warnings.catch_warnings():
            # peft asks for it under its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            model = peft.get_peft_model(llm, config_class(**arguments))
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if "arget modules" in reason:
            reason += f"; {list_targets(llm)}"
        raise UserError(f"model.adapter {adapter}, adapter_options {options}: {reason}") from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def is_adapted(llm: Any) -> bool:
    """Whether the LLM is wrapped with an adapter of peft, which need not be installed."""
    return hasattr(llm, "get_base_model")


@torch.no_grad()
def merge_adapter(llm: Any, tolerance: float | None = None) -> Any:
    """Add the adapter into the LLM's weights, so that decoding does no work for it; the LLM alone.

    Logits of a few tokens are compared before and after; `tolerance` is how far they may move, as
    a share of the largest.

    Raises:
        UserError: the LLM is quantised, or its logits moved too far.
    """
    if not is_adapted(llm):
        return llm
    base: Any = llm.get_base_model()
    if getattr(base, "is_quantized", False):
        raise UserError(
            "model.merge_adapter: true cannot add an adapter to quantised weights; set "
            "model.quantization: none, or model.merge_adapter: false"
        )
    ids = (
        torch.arange(NUM_PROBE_TOKENS, device=llm.device)[None]
        % base.config.get_text_config().vocab_size
    )
    before = base(input_ids=ids, use_cache=False).logits.float()
    merged = llm.merge_and_unload(safe_merge=True)
    after = merged(input_ids=ids, use_cache=False).logits.float()
    drift = float((after - before).abs().max() / before.abs().max())
    allowed = MERGE_TOLERANCES.get(merged.dtype, 1e-3) if tolerance is None else tolerance
    if not drift <= allowed:
        raise UserError(
            f"model.merge_adapter: true moved the logits by {drift:.1e} of the largest, more than "
            f"{allowed:.0e}; set model.merge_adapter: false"
        )
    return merged


def _adapter_defaults(
    adapter: str, rank: int, alpha: int, dropout: float
) -> tuple[Any, dict[str, Any]]:
    """peft's configuration class and the settings the SALMONN family uses with it."""
    import peft

    if adapter in ("lora", "dora"):
        return peft.LoraConfig, {
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "target_modules": ATTENTION_PROJECTIONS,
            "use_dora": adapter == "dora",
        }
    if adapter == "vblora":
        return peft.VBLoRAConfig, {
            "r": rank,
            "vblora_dropout": dropout,
            "vector_length": 256,
            "num_vectors": 256,
            "topk": 2,
            "target_modules": ATTENTION_PROJECTIONS,
        }
    if adapter == "hra":
        return peft.HRAConfig, {"r": 2, "target_modules": ALL_PROJECTIONS}
    raise UserError(f"model.adapter: {adapter!r} is none of lora, dora, vblora, hra, none")


def set_adapter_training(llm: nn.Module, mode: bool) -> None:
    """Put the frozen LLM in eval mode and only its adapter layers (dropout) in `mode`."""
    llm.eval()
    set_layers_training(llm, mode)
    for module in llm.modules():
        if hasattr(module, "adapter_layer_names"):  # a layer that peft has wrapped
            module.train(mode)
            base_layer = getattr(module, "base_layer", None)
            if isinstance(base_layer, nn.Module):
                base_layer.eval()


def base_llm(llm: Any) -> Any:
    """The LLM itself, without the adapter's wrapper around it."""
    return llm.get_base_model() if is_adapted(llm) else llm
