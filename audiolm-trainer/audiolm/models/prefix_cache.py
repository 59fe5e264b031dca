"""What the LLM makes of the prompt before the audio, computed once per prompt.

Every row of a batch begins with the same tokens when the prompts do: `<bos>`, the template and
`<Speech>`. Their keys and values depend on nothing behind them, so they serve all clips and batches
as long as the weights stay as they are; whoever makes a `PrefixCache` sees to that.

Letters: B rows, K key heads, P positions of the prefix, D head width.
"""

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from audiolm.models.kv_cache import build_cache, sees_every_position
from audiolm.models.llm import CausalStep

MAX_PREFIXES = 64  # more than any prompt file has tasks; then the oldest go


class PrefixCache:
    """Keys and values of prefixes, for one LLM whose weights do not change meanwhile."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.num_computed = 0

    @torch.no_grad()
    def fill(self, step: CausalStep, cache: DynamicCache, ids: Sequence[int], num_rows: int) -> int:
        """Put the prefix at the start of an empty cache, for every row; returns its length P.

        0, and nothing is done, where there is no prefix or a layer does not see every position.
        """
        if not ids or not sees_every_position(cache):
            return 0
        for layer, (keys, values) in enumerate(self._find(step, tuple(ids))):
            shape = (num_rows, -1, -1, -1)
            cache.update(keys.expand(shape), values.expand(shape), layer)  # (1, K, P, D) -> B
        return len(ids)

    def _find(
        self, step: CausalStep, ids: tuple[int, ...]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if ids not in self._states:
            if len(self._states) >= MAX_PREFIXES:
                del self._states[next(iter(self._states))]
            device = step.llm.get_input_embeddings().weight.device
            cache = build_cache(step.config, len(ids))
            positions = torch.arange(len(ids), device=device)[None]
            rows = torch.tensor([ids], device=device)
            step(cache, positions, None, input_ids=rows, logits_to_keep=1)
            self._states[ids] = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[misc]
            self.num_computed += 1
        return self._states[ids]
