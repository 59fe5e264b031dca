"""The language model: any causal LLM, its tokenizer and quantisation.

Nothing outside this module and its adapter's (`adapter.py`) knows which LLM it is.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from audiolm.models.adapter import base_llm
from audiolm.models.pretrained import explained_errors, load_pretrained
from audiolm.models.quantisation import build_llm_quantisation

PAD_TOKEN = "[PAD]"


def load_tokenizer(path: str, token: str = "") -> PreTrainedTokenizerBase:
    """The LLM's tokenizer; one without a padding token gets `[PAD]`, as in SALMONN."""
    with explained_errors("model.llama_path", path):
        tokenizer = AutoTokenizer.from_pretrained(
            path, token=token or None, clean_up_tokenization_spaces=False
        )
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


def read_llm_width(path: str, token: str = "") -> int:
    """The LLM's hidden size, from its configuration alone."""
    with explained_errors("model.llama_path", path):
        config = AutoConfig.from_pretrained(path, token=token or None)
    return config.get_text_config().hidden_size


def load_llm(
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype = torch.float32,
    quantization: str = "none",
    is_double_quantised: bool = True,
    attn_implementation: str = "auto",
    device: torch.device | str = "cpu",
    token: str = "",
) -> PreTrainedModel:
    """Load the LLM, frozen, with an embedding row for the tokenizer's padding token.

    `quantization` int8 or nf4 goes through bitsandbytes and places the weights on `device`;
    `is_double_quantised` keeps nf4's block maxima in 8 bits too.

    Raises:
        UserError: no such model, or bitsandbytes is missing.
    """
    arguments: dict[str, Any] = {}
    if quantization != "none":
        arguments["quantization_config"] = build_llm_quantisation(
            quantization, dtype, is_double=is_double_quantised
        )
        arguments["device_map"] = {"": device}
    llm = load_pretrained(
        AutoModelForCausalLM,
        path,
        option="model.llama_path",
        dtype=dtype,
        attn_implementation=attn_implementation,
        token=token,
        **arguments,
    )
    _add_padding_row(llm, tokenizer)
    own = llm.generation_config
    assert own is not None
    llm.generation_config = GenerationConfig(  # without the sampling that chat models come with
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
    )
    return llm.requires_grad_(False)


def _add_padding_row(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Grow the embeddings when the padding token has no row: the float32 mean of the others."""
    embeddings = llm.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    size = len(tokenizer)
    if size <= embeddings.num_embeddings:
        return
    # transformers' resize_token_embeddings draws a random table first: seconds for 128,000 rows.
    head = llm.get_output_embeddings()
    assert head is not None
    is_tied = head.weight is embeddings.weight
    _grow(embeddings, size)
    if is_tied:
        head.weight = embeddings.weight
    _grow(head, size)
    embeddings.num_embeddings = head.out_features = size
    llm.config.get_text_config().vocab_size = size
    llm.vocab_size = size


@torch.no_grad()
def _grow(table: nn.Module, size: int) -> None:
    """Make a table's parameters `size` rows long by rows of their mean."""
    for name, old in list(table.named_parameters(recurse=False)):
        if len(old) < size:
            new = old.new_empty(size, *old.shape[1:])
            new[: len(old)] = old
            new[len(old) :] = old.float().mean(0).to(old.dtype)
            setattr(table, name, nn.Parameter(new, requires_grad=False))


def stop_token_ids(llm: nn.Module, tokenizer: PreTrainedTokenizerBase, end_text: str) -> list[int]:
    """Every token that ends an answer: the LLM's own, and the end symbol's when it is one token."""
    own = llm.generation_config.eos_token_id  # type: ignore[union-attr]
    ids = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id]
    end_ids = tokenizer(end_text, add_special_tokens=False).input_ids if end_text else []
    if len(end_ids) == 1:
        ids += end_ids
    return list(dict.fromkeys(i for i in ids if i is not None))


class CausalStep:
    """Runs an LLM over new positions on a cache: what decoding needs of one, whatever it is.

    The adapter's wrapper is left out of the call; the layers it changed do their work all the same.

    Args:
        llm: with or without adapter; `fits` must be true of it.
    """

    def __init__(self, llm: Any) -> None:
        self.llm = base_llm(llm)
        self.config = self.llm.config.get_text_config()
        self._cache_name = _find_cache_name(self.llm)
        # a mask over key positions, ready for the layers; other kernels want their own shapes
        self.takes_full_mask = getattr(self.config, "_attn_implementation", None) == "sdpa"

    @staticmethod
    def fits(llm: Any) -> bool:
        """Whether the LLM takes positions, a cache, and how many logits to compute; not of one in
        pieces over several processes, which must decode in step (transformers' loop does)."""
        llm = base_llm(llm)
        if getattr(llm, "_is_fsdp_managed_module", False):
            return False
        parameters = inspect.signature(llm.forward).parameters
        needed = ("inputs_embeds", "position_ids", "logits_to_keep", _find_cache_name(llm))
        return all(name in parameters for name in needed)

    def __call__(
        self, cache: Any, positions: torch.Tensor, mask: torch.Tensor | None, **inputs: Any
    ) -> torch.Tensor:
        """Read new positions, add them to the cache, and give their logits (B, n, V).

        Args:
            cache: of the positions before.
            positions: (B, n) of the new ones.
            mask: (B, all positions), 1 = real; or ready for the layers; None: all are real.
            inputs: `input_ids` (B, n) or `inputs_embeds` (B, n, H); `logits_to_keep`.
        """
        inputs[self._cache_name] = cache
        output = self.llm(attention_mask=mask, position_ids=positions, use_cache=True, **inputs)
        return output.logits


def _find_cache_name(llm: Any) -> str:
    """What this version of transformers calls the cache."""
    parameters = inspect.signature(llm.forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"
