"""Answers by transformers' own `generate`: for beams, and for LLMs that our loop cannot drive.

In: spliced rows. Out: new token ids.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteriaList

from audiolm.config import GenerateConfig
from audiolm.models.greedy import build_processors
from audiolm.models.sampling import choose_samplers
from audiolm.models.splice import LlmInputs
from audiolm.models.stopping import EndRules, EndTextCriteria, RunawayCriteria, RunawayGuard


@torch.no_grad()
def generate_by_transformers(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    inputs: LlmInputs,
    options: GenerateConfig,
    rules: EndRules,
    guard: RunawayGuard | None = None,
    seeds: Sequence[int] | None = None,
) -> torch.Tensor:
    """New token ids (B, at most max_new_tokens); see `decode.generate_ids`."""
    stop_ids = list(rules.token_ids)
    samples_beams = options.do_sample and options.num_beams > 1
    generation = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        min_new_tokens=min(options.min_length, options.max_new_tokens),
        num_beams=options.num_beams,
        do_sample=samples_beams,
        eos_token_id=stop_ids,
        pad_token_id=stop_ids[0] if stop_ids else tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **({"length_penalty": options.length_penalty} if options.num_beams > 1 else {}),
    )
    if samples_beams:
        generation.update(temperature=options.temperature, top_p=options.top_p, top_k=0)
    # transformers would not count a padded row's first tokens (as many as it has padding)
    processors = build_processors(
        inputs.attention_mask.device,
        repetition_penalty=options.repetition_penalty,
        samplers=choose_samplers(options, len(inputs.attention_mask), seeds),
    )
    criteria = StoppingCriteriaList()
    for text in rules.long_texts:
        criteria.append(EndTextCriteria(tokenizer, text))
    if guard is not None:
        criteria.append(RunawayCriteria(guard))
    return llm.generate(
        inputs_embeds=inputs.inputs_embeds,
        attention_mask=inputs.attention_mask,
        generation_config=generation,
        logits_processor=processors,
        stopping_criteria=criteria,
    )
