"""Join prompt, audio tokens and answer into one row per clip, padded once at the end.

    <bos> + prompt before <SpeechHere> + audio + prompt after + answer + end symbol

Letters: B clips, S row length, H LLM width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from audiolm.errors import UserError
from audiolm.prompts import split_at_marker

IGNORED_LABEL = -100  # transformers' and torch's mark for positions without a loss


@dataclass(frozen=True)
class LlmInputs:
    """What the LLM reads: embeddings (B, S, H), attention_mask (B, S) 1 = real, labels (B, S).

    `prefix_ids` are the tokens before the audio, where all rows have the same; else empty.
    """

    inputs_embeds: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    prefix_ids: tuple[int, ...] = ()

    def take_rows(self, rows: slice) -> "LlmInputs":
        """Some of the rows, padding included."""
        return LlmInputs(
            self.inputs_embeds[rows], self.attention_mask[rows], self.labels[rows], self.prefix_ids
        )

    def as_arguments(self) -> dict[str, torch.Tensor]:
        """What transformers' LLMs take, by name."""
        return {name: value for name, value in vars(self).items() if name != "prefix_ids"}


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of the text alone, without beginning or end of text."""
    return tokenizer(text, add_special_tokens=False).input_ids


def tokenize_answer(
    tokenizer: PreTrainedTokenizerBase, text: str, end_text: str, max_tokens: int
) -> list[int]:
    """Ids of answer and end symbol; a long answer loses its own end, never the symbol."""
    ids = tokenize(tokenizer, text + end_text)
    if len(ids) > max_tokens:
        end_ids = tokenize(tokenizer, end_text)
        ids = ids[: max(max_tokens - len(end_ids), 0)] + end_ids
    return ids


def splice(
    audio_embeds: torch.Tensor,
    audio_mask: torch.Tensor,
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]] | None,
    tokenizer: PreTrainedTokenizerBase,
    embeddings: nn.Module,
    *,
    padding_side: str,
) -> LlmInputs:
    """Build the LLM's input rows. Each row is complete before any padding is added.

    Args:
        audio_embeds: (B, L, H).
        audio_mask: (B, L), 1 = real.
        prompts: B templated prompts that hold `<SpeechHere>` once.
        answers: B lists of token ids (end symbol included), or None to generate.
        padding_side: "right" to train, "left" to generate.

    Raises:
        UserError: a prompt without `<SpeechHere>`, or another number of prompts than of clips.
    """
    if len(prompts) != len(audio_embeds):
        raise UserError(
            f"{len(audio_embeds)} clips but {len(prompts)} prompts: each clip needs its own prompt"
        )
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    heads, tails = [], []
    for row, prompt in enumerate(prompts):
        before, after = split_at_marker(prompt)
        heads.append(bos + tokenize(tokenizer, before))
        tails.append(tokenize(tokenizer, after) + list(answers[row] if answers else []))
    device = audio_embeds.device
    pieces = _embed(heads + tails, embeddings, device)
    head_embeds, tail_embeds = pieces[: len(heads)], pieces[len(heads) :]

    lengths = audio_mask.sum(1).tolist()
    rows, labels = [], []
    for row, length in enumerate(lengths):
        audio = audio_embeds[row, :length].to(pieces[0].dtype)
        embeds = torch.cat([head_embeds[row], audio, tail_embeds[row]])  # (S, H)
        answer = list(answers[row]) if answers else []
        label = [IGNORED_LABEL] * (len(embeds) - len(answer)) + answer
        rows.append(embeds)
        labels.append(torch.tensor(label, device=device))
    masks = [torch.ones(len(embeds), dtype=torch.long, device=device) for embeds in rows]
    return LlmInputs(
        _pad(rows, 0, padding_side),
        _pad(masks, 0, padding_side),
        _pad(labels, -100, padding_side),
        tuple(heads[0]) if all(head == heads[0] for head in heads) else (),
    )


def _embed(
    lists: list[list[int]], embeddings: nn.Module, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Embed many id lists with one look-up: [ids] -> [(len(ids), H)]."""
    flat = torch.tensor([i for ids in lists for i in ids], dtype=torch.long, device=device)
    return embeddings(flat).split([len(ids) for ids in lists])


def _pad(rows: list[torch.Tensor], value: int, side: str) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
