"""CTC loss of the audio tokens against the LLM's own token embeddings: a warm-up without the LLM.

Each audio token is read as the vocabulary entry whose embedding it is most like, and an answer as
the sequence of these readings after CTC's rule (repeats merge, blanks go). What is learned lands
where the LLM has its words, at the price of one matrix product instead of a pass through the LLM.
Source: Graves et al. 2006, "Connectionist Temporal Classification".

Letters: B clips, L audio tokens, H LLM width, V entries of the restricted vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from audiolm.errors import UserError
from audiolm.models.answer_loss import AnswerLoss
from audiolm.models.splice import tokenize

BLANK_TEXT = " "  # the blank is the token of a space: one that every LLM knows and may ignore
BLANK = 0  # its place in the restricted vocabulary


SHARPNESS = 40.0  # nats
START_SCALE = 0.015  # of a new projector's weights: its output is then smaller than an embedding


def start_near_embeddings(projector: nn.Linear, embeddings: nn.Module) -> None:
    """Let a new projector begin at the mean token embedding, with small differences around it.

    CTC says nothing about what all embeddings have in common, so it has to be there at the start.
    """
    table = embeddings.weight
    assert isinstance(table, Tensor)
    with torch.no_grad():
        projector.weight *= START_SCALE
        projector.bias.copy_(table.float().mean(0))


def tokenize_spoken(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> list[int]:
    """Ids of a text's words, the first behind a space like all others, at most `max_tokens`."""
    return tokenize(tokenizer, f" {text.strip()}")[:max_tokens]


@dataclass(frozen=True)
class CtcVocabulary:
    """The blank, then every token id that the texts of a run use.

    `ids` is (V,), `columns` the place of each id in it.
    """

    ids: Tensor
    columns: dict[int, int]

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, answers: Iterable[Sequence[int]]
    ) -> "CtcVocabulary":
        """Of the answers of all training and validation clips."""
        blank = tokenize(tokenizer, BLANK_TEXT)[0]
        used = {i for answer in answers for i in answer} - {blank}
        ids = [blank, *sorted(used)]
        return cls(torch.tensor(ids), {number: place for place, number in enumerate(ids)})


def compute_ctc_loss(
    audio_embeds: Tensor,
    audio_mask: Tensor,
    answers: Sequence[Sequence[int]],
    embeddings: nn.Module,
    vocabulary: CtcVocabulary | None,
) -> AnswerLoss:
    """Loss in nats per answer token.

    `correct` counts answer tokens that the best path (`read_tokens`) has in their order. A clip
    with fewer audio tokens than its answer needs adds no loss.

    Args:
        audio_embeds: (B, L, H).
        audio_mask: (B, L), 1 = real.
        answers: B lists of token ids (`tokenize_spoken`).
        embeddings: the LLM's input embeddings.
        vocabulary: holds every id of the answers.

    Raises:
        UserError: there is no vocabulary.
    """
    if vocabulary is None:
        raise UserError("model.objective: ctc needs the run's texts; set SALMONN.ctc_vocabulary")
    logits = compute_token_logits(audio_embeds, embeddings, vocabulary)  # (B, L, V)
    columns = [[vocabulary.columns[i] for i in answer] for answer in answers]
    lengths = torch.tensor([len(row) for row in columns], device=logits.device)
    row_losses = nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),  # (L, B, V)
        torch.tensor([i for row in columns for i in row], device=logits.device),
        audio_mask.sum(1),
        lengths,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )  # (B,)
    readings = read_tokens(logits.detach(), audio_mask)
    pairs = zip(readings, columns, strict=True)
    row_correct = torch.tensor([count_common(*pair) for pair in pairs], device=logits.device)
    total = int(lengths.sum())
    return AnswerLoss(
        row_losses.sum() / max(total, 1),
        float(row_correct.sum()),
        total,
        row_losses=row_losses.detach(),
        row_correct=row_correct,
        row_totals=lengths,
    )


def compute_token_logits(
    audio_embeds: Tensor, embeddings: nn.Module, vocabulary: CtcVocabulary
) -> Tensor:
    """(B, L, H) -> (B, L, V) logits of the vocabulary's entries: how far an audio token goes their
    way from the mean embedding.

    The scale is such that an entry's own embedding has a logit of `SHARPNESS` on average, those of
    unrelated entries about 0: what goes as far as that is as good as certain.
    """
    table = embeddings(vocabulary.ids.to(audio_embeds.device)).detach().float()  # (V, H)
    mean = table.mean(0)
    lengths = (table - mean).norm(dim=-1, keepdim=True)  # (V, 1)
    directions = (table - mean) / lengths
    return (audio_embeds.float() - mean) @ directions.T * (SHARPNESS / lengths.mean())


def read_tokens(logits: Tensor, audio_mask: Tensor) -> list[list[int]]:
    """Best path of each row: (B, L, V) -> B lists of columns, repeats merged, without blanks."""
    readings = []
    for row, length in zip(logits.argmax(-1), audio_mask.sum(1).tolist(), strict=True):
        merged = torch.unique_consecutive(row[:length]).tolist()
        readings.append([column for column in merged if column != BLANK])
    return readings


def count_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest sequence that both hold in order (not necessarily side by side)."""
    previous = [0] * (len(other) + 1)
    for item in one:
        current = [0]
        for place, value in enumerate(other):
            best = max(previous[place + 1], current[-1])
            current.append(previous[place] + 1 if value == item else best)
        previous = current
    return previous[-1]


def compress_tokens(
    audio_embeds: Tensor,
    audio_mask: Tensor,
    embeddings: nn.Embedding,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Tensor, Tensor]:
    """What the LLM's vocabulary makes of audio tokens: blanks go, each run of equal readings
    becomes one mixture of embeddings, by the probabilities of its mean.

    What is left is about one audio token per token of the text, and where the reading is sure, the
    very embedding of that token. A clip in which all read as the blank keeps its first audio token.
    Source of the shortening: Gaido et al. 2021, "CTC-based Compression for Direct Speech
    Translation".

    Args:
        audio_embeds: (B, L, H), of a connector trained by `compute_ctc_loss`.
        audio_mask: (B, L), 1 = real.
        embeddings: the LLM's input embeddings.
        tokenizer: the LLM's.

    Returns:
        Embeddings (B, L', H) and mask (B, L'), L' at most L.
    """
    blank = tokenize(tokenizer, BLANK_TEXT)[0]
    readings = compute_entry_logits(audio_embeds.detach(), embeddings).argmax(-1)  # (B, L)
    rows = []
    for embeds, reading, length in zip(
        audio_embeds, readings, audio_mask.sum(1).tolist(), strict=True
    ):
        ids, places, counts = torch.unique_consecutive(
            reading[:length], return_inverse=True, return_counts=True
        )
        sums = embeds.new_zeros(len(ids), embeds.shape[1]).index_add(0, places, embeds[:length])
        kept = (sums / counts[:, None])[ids != blank]
        rows.append(kept if len(kept) else embeds[:1])
    lengths = torch.tensor([len(row) for row in rows], device=audio_mask.device)
    mask = torch.arange(int(lengths.max()), device=audio_mask.device) < lengths[:, None]
    probabilities = compute_entry_logits(torch.cat(rows), embeddings).softmax(-1)  # (N, V)
    mixtures = (probabilities.to(embeddings.weight.dtype) @ embeddings.weight).split(
        lengths.tolist()
    )
    return nn.utils.rnn.pad_sequence(list(mixtures), batch_first=True), mask.to(audio_mask.dtype)


def compute_entry_logits(audio_embeds: Tensor, embeddings: nn.Embedding) -> Tensor:
    """(..., H) -> (..., V): as `compute_token_logits`, of the LLM's whole vocabulary.

    The table is never copied, which would take gigabytes of a large LLM.
    """
    table = embeddings.weight  # (V, H)
    mean = table.mean(0, dtype=torch.float32)
    squared = torch.linalg.vector_norm(table, dim=-1, dtype=torch.float32).square()
    squared = squared - 2 * (table @ mean.to(table.dtype)).float() + mean.square().sum()
    lengths = squared.clamp(min=1e-6).sqrt()  # (V,)
    from_mean = audio_embeds.float() - mean
    along = (from_mean.to(table.dtype) @ table.T).float() - (from_mean @ mean)[..., None]
    return along / lengths * (SHARPNESS / lengths.mean())
