"""One new token per row through an LLM built like Llama, on a reserved cache, and nothing else.

transformers' forward makes masks, repeats keys for grouped queries and goes through wrappers of
wrappers for every token; at batch 1 that takes a fifth to a third of the time of a small model.
Here are the same sums on the same weights: linear layers (see `few_rows.py`) and norms are called
as functions where nothing is attached to them (adapters and quantised layers stay modules), queries
and keys are turned at once, and the queries of a group are the rows of one attention.

Letters: B rows, H LLM width, Q query heads, K key heads, D head width, S positions so far.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from audiolm.models.adapter import base_llm
from audiolm.models.few_rows import linear_of_few_rows

# transformers' classes whose layers are RMS norm, rotary attention (with norms of queries and keys
# in Qwen3) and a gated MLP, each added to what went in.
LLAMA_LIKE = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}

Function = Callable[[torch.Tensor], torch.Tensor]
Pair = tuple[torch.Tensor, torch.Tensor]
Store = Callable[[int, torch.Tensor, torch.Tensor], Pair]


@dataclass(frozen=True)
class Layer:
    """The functions of a decoder layer; `query_norm` and `key_norm` only where it has them."""

    norm: Function
    projections: tuple[Function, Function, Function]  # to queries, keys, values
    query_norm: Function | None
    key_norm: Function | None
    output: Function
    scale: float
    mlp_norm: Function
    gate: Function
    up: Function
    activation: Function
    down: Function

    @classmethod
    def of(cls, layer: Any) -> "Layer":
        """Of transformers' module."""
        attention, mlp = layer.self_attn, layer.mlp
        own_norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        query_norm, key_norm = (norm and unwrap(norm) for norm in own_norms)
        return cls(
            norm=unwrap(layer.input_layernorm),
            projections=(
                unwrap(attention.q_proj), unwrap(attention.k_proj), unwrap(attention.v_proj)
            ),
            query_norm=query_norm,
            key_norm=key_norm,
            output=unwrap(attention.o_proj),
            scale=attention.scaling,
            mlp_norm=unwrap(layer.post_attention_layernorm),
            gate=unwrap(mlp.gate_proj),
            up=unwrap(mlp.up_proj),
            activation=mlp.act_fn,
            down=unwrap(mlp.down_proj),
        )  # fmt: skip


@dataclass(frozen=True)
class Functions:
    """All functions of an LLM, and how its heads are shared out."""

    embed: Function
    layers: tuple[Layer, ...]
    norm: Function
    head: Function
    num_queries: int
    num_keys: int

    @classmethod
    def of(cls, llm: Any) -> "Functions":
        """Of transformers' module."""
        config, model = llm.config.get_text_config(), llm.get_decoder()
        return cls(
            embed=unwrap(model.embed_tokens),
            layers=tuple(Layer.of(layer) for layer in model.layers),
            norm=unwrap(model.norm),
            head=unwrap(llm.get_output_embeddings()),
            num_queries=config.num_attention_heads,
            num_keys=config.num_key_value_heads,
        )


class LeanStep:
    """The step of one LLM as it is now; `fits` must be true of it.

    Args:
        llm: with or without adapter.
    """

    def __init__(self, llm: Any) -> None:
        llm = base_llm(llm)
        self.functions = Functions.of(llm)
        self._rotary = llm.get_decoder().rotary_emb
        self._like = llm.get_input_embeddings().weight  # number type and device

    @staticmethod
    def fits(llm: Any) -> bool:
        """Whether it is one of these as transformers has them, with SDPA attention.

        Of its cache `sees_every_position` must be true besides.
        """
        llm = base_llm(llm)
        kind = type(llm)
        is_own = kind.__name__ in LLAMA_LIKE and kind.__module__.startswith("transformers.models.")
        return is_own and llm.config._attn_implementation == "sdpa"

    def __call__(
        self, cache: Any, positions: torch.Tensor, mask: torch.Tensor | None, ids: torch.Tensor
    ) -> torch.Tensor:
        """Read a token per row, add it to the cache, and give its logits (B, 1, V).

        Args:
            cache: of `kv_cache.build_cache`, with the positions before.
            positions: (B, 1) of the tokens.
            mask: (B, 1, 1, S), True = real, the new position included; None: all are real.
            ids: (B, 1).
        """

        def store(index: int, keys: torch.Tensor, values: torch.Tensor) -> Pair:
            return cache.layers[index].update(keys, values)

        return compute(self.functions, ids, self.find_turn(positions), store, mask)

    def find_turn(self, positions: torch.Tensor) -> Pair:
        """Positions (B, 1) -> factors (B, 1, D): of a head, and of it with its halves swapped."""
        cosine, sine = self._rotary(self._like, positions)
        first, second = sine.chunk(2, -1)
        return cosine, torch.cat([-first, second], -1)


def compute(
    functions: Functions, ids: torch.Tensor, turn: Pair, store: Store, mask: torch.Tensor | None
) -> torch.Tensor:
    """Ids (B, 1) -> logits (B, 1, V).

    Args:
        turn: of `LeanStep.find_turn`.
        store: keeps the new keys and values (B, K, 1, D) of a layer; gives all of them.
        mask: (B, 1, 1, S) over all of them, True = real; None: all are real.
    """
    hidden = functions.embed(ids[:, 0])  # (B, H)
    for index, layer in enumerate(functions.layers):
        queries, keys, values = _project(functions, layer, layer.norm(hidden), turn)
        all_keys, all_values = store(index, keys, values)  # (B, K, S, D)
        attended = scaled_dot_product_attention(
            queries, all_keys, all_values, attn_mask=mask, scale=layer.scale
        )
        hidden = hidden + layer.output(attended.reshape(len(hidden), -1))
        normed = layer.mlp_norm(hidden)
        hidden = hidden + layer.down(layer.activation(layer.gate(normed)) * layer.up(normed))
    return functions.head(functions.norm(hidden))[:, None]


def _project(
    functions: Functions, layer: Layer, hidden: torch.Tensor, turn: Pair
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, H) -> queries (B, K, Q / K, D), keys and values (B, K, 1, D), turned by position."""
    cosine, sine = turn
    num_rows, width = len(hidden), cosine.shape[-1]
    num_queries, num_keys = functions.num_queries, functions.num_keys
    heads = torch.cat([project(hidden) for project in layer.projections], -1)
    heads = heads.view(num_rows, -1, width)  # (B, Q + K + K, D)
    turned, values = heads.split((num_queries + num_keys, num_keys), 1)
    if layer.query_norm is not None and layer.key_norm is not None:
        queries, keys = turned.split((num_queries, num_keys), 1)
        turned = torch.cat([layer.query_norm(queries), layer.key_norm(keys)], 1)
    turned = torch.addcmul(turned * cosine, turned.roll(width // 2, -1), sine)
    queries, keys = turned.split((num_queries, num_keys), 1)
    grouped = queries.reshape(num_rows, num_keys, -1, width)
    return grouped, keys[:, :, None], values[:, :, None]


def unwrap(module: nn.Module) -> Function:
    """What a module computes, without the module's call; one with more to it stays as it is."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return module
    weight: Any = getattr(module, "weight", None)
    if type(module) is nn.Linear:
        return linear_of_few_rows(weight, module.bias)
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return partial(normalise, weight=weight, epsilon=module.variance_epsilon)
    return module


def normalise(hidden: torch.Tensor, weight: torch.Tensor, epsilon: Any) -> torch.Tensor:
    """RMS norm over the last dimension, in float32, as these classes have it."""
    wide = hidden.float()
    scale = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    return weight * (wide * scale).to(hidden.dtype)
