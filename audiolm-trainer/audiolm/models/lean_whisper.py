"""Whisper's layers without gradients on a processor, in memory that all of them share.

transformers' layers make a new array for every product, sum and transposition. Arrays of megabytes
come from the system page by page, and that takes longer than filling them. Here each kind of array
exists once per pass, and sums go into what is there; the numbers stay the same to the bit.

Letters: N rows (clips x frames), B clips, T frames, C width, H heads, D head width.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def runs_lean(encoder: Any) -> bool:
    """Whether `run_layers` can stand for the layers' own calls, now.

    It cannot for what gradients are wanted of, for layers that somebody listens to, and for
    quantised or adapted ones.
    """
    weight = encoder.layer_norm.weight
    if encoder.training or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    config = encoder.config
    if config._attn_implementation != "sdpa" or config.activation_function != "gelu":
        return False
    return all(_is_plain(layer) for layer in encoder.layers)


def run_layers(encoder: Any, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(B, T, C) -> (B, T, C), before the final layer norm.

    Args:
        encoder: one that `runs_lean` lets pass.
        hidden: what enters the first layer.
        mask: additive (B, 1, T, T); None: every frame sees every frame.
    """
    num_clips, num_frames, width = hidden.shape
    rows = hidden.reshape(-1, width).clone(memory_format=torch.contiguous_format)  # (N, C)
    normed = torch.empty_like(rows)
    # What attention reads is done with when the inner layer is filled, so they share their memory.
    inner_width = max(encoder.config.encoder_ffn_dim, 3 * width)
    shared = rows.new_empty(len(rows) * inner_width)
    inner = shared[: len(rows) * encoder.config.encoder_ffn_dim].view(len(rows), -1)
    queries, keys, values = shared[: 3 * rows.numel()].view(3, *rows.shape)
    statistics = [rows.new_empty(len(rows), 1) for _ in range(2)]  # of the norms: mean, scale

    def normalise(norm: nn.LayerNorm) -> torch.Tensor:
        torch.ops.aten.native_layer_norm.out(
            rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps,
            out0=normed, out1=statistics[0], out2=statistics[1],
        )  # fmt: skip
        return normed

    def by_head(states: torch.Tensor) -> torch.Tensor:
        heads = states.view(num_clips, num_frames, encoder.config.encoder_attention_heads, -1)
        return heads.transpose(1, 2)  # (B, H, T, D)

    for layer in encoder.layers:
        attention = layer.self_attn
        normalise(layer.self_attn_layer_norm)
        _multiply(attention.q_proj, normed, queries).mul_(attention.scaling)
        _multiply(attention.k_proj, normed, keys)
        _multiply(attention.v_proj, normed, values)
        attended = scaled_dot_product_attention(
            by_head(queries), by_head(keys), by_head(values), attn_mask=mask, scale=1.0
        )
        attended = attended.transpose(1, 2).reshape(-1, width)
        rows += _multiply(attention.out_proj, attended, normed)
        _multiply(layer.fc1, normalise(layer.final_layer_norm), inner)
        torch.ops.aten.gelu_(inner)
        rows += _multiply(layer.fc2, inner, normed)
    return rows.view(num_clips, num_frames, width)


def _multiply(layer: nn.Linear, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """A linear layer (N, C) -> (N, D) into `out`."""
    if layer.bias is None:
        return torch.mm(rows, layer.weight.t(), out=out)
    return torch.addmm(layer.bias, rows, layer.weight.t(), out=out)


def _is_plain(layer: nn.Module) -> bool:
    """Whether all parts with weights are torch's own, and nobody listens to any part."""
    return not any(
        (hasattr(part, "weight") and type(part) not in (nn.Linear, nn.LayerNorm))
        or part._forward_hooks
        or part._forward_pre_hooks
        or "forward" in vars(part)
        for part in layer.modules()
    )
