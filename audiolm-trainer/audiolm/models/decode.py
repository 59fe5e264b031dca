"""From spliced rows to answer texts, through transformers' `generate`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from audiolm.config import GenerateConfig
from audiolm.models.llm import stop_token_ids
from audiolm.models.splice import LlmInputs, tokenize


class EndTextCriteria(StoppingCriteria):
    """Stops each row by itself once its text holds an end symbol of several tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_text: str) -> None:
        self.tokenizer = tokenizer
        self.end_text = end_text
        self.num_tokens = 2 * len(tokenize(tokenizer, end_text)) + 2

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """(rows, S) token ids -> (rows,) True where the row is done."""
        tails = self.tokenizer.batch_decode(input_ids[:, -self.num_tokens :])
        return torch.tensor([self.end_text in tail for tail in tails], device=input_ids.device)


def read_generate_config(section: Any) -> GenerateConfig:
    """The `generate` section (dataclass, OmegaConf node, dict or None) as a dataclass."""
    if isinstance(section, GenerateConfig):
        return section
    if OmegaConf.is_config(section):
        section = OmegaConf.to_container(section, resolve=True)
    if is_dataclass(section) and not isinstance(section, type):
        section = asdict(section)
    assert section is None or isinstance(section, Mapping)
    from audiolm.config_file import build_config

    return build_config({"generate": dict(section or {})}, source="generate").generate


def generate_ids(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    inputs: LlmInputs,
    generate_cfg: Any,
    end_text: str,
) -> torch.Tensor:
    """New token ids (B, at most max_new_tokens), stopped row by row and padded at the end.

    `min_length` and `max_new_tokens` count new tokens only.
    """
    options = read_generate_config(generate_cfg)
    end_text = options.end_sym or end_text
    stop_ids = stop_token_ids(llm, tokenizer, end_text)
    sampling = {"temperature": options.temperature, "top_p": options.top_p}
    generation = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        min_new_tokens=min(options.min_length, options.max_new_tokens),
        num_beams=options.num_beams,
        do_sample=options.do_sample,
        repetition_penalty=options.repetition_penalty,
        eos_token_id=stop_ids,
        pad_token_id=stop_ids[0] if stop_ids else tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **({"length_penalty": options.length_penalty} if options.num_beams > 1 else {}),
        **(sampling if options.do_sample else {}),
    )
    criteria = StoppingCriteriaList()
    if end_text and len(tokenize(tokenizer, end_text)) > 1:
        criteria.append(EndTextCriteria(tokenizer, end_text))
    return llm.generate(
        inputs_embeds=inputs.inputs_embeds,
        attention_mask=inputs.attention_mask,
        generation_config=generation,
        stopping_criteria=criteria,
    )


def generate_texts(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    inputs: LlmInputs,
    generate_cfg: Any,
    end_text: str,
) -> list[str]:
    """Answers as plain text: special tokens removed, cut at the end symbol."""
    options = read_generate_config(generate_cfg)
    ids = generate_ids(llm, tokenizer, inputs, options, end_text)
    return clean_texts(tokenizer, ids.tolist(), options.end_sym or end_text)


def clean_texts(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]], end_text: str
) -> list[str]:
    """Token ids -> text up to the end symbol, without special tokens or outer space."""
    texts = tokenizer.batch_decode(
        [list(row) for row in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    if end_text:
        texts = [text.split(end_text)[0] for text in texts]
    return [text.strip() for text in texts]
