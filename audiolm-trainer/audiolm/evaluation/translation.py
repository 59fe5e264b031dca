"""BLEU of translations, as sacrebleu counts it.

In: one hypothesis and its references per clip, and the target language. Out: per-clip counts whose
sums give the corpus figure, 0 to 100 (Post 2018; 4-grams, exponential smoothing, closest length).
"""

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from audiolm.evaluation.intervals import Measure

# sacrebleu's tokenisers by target language. Its Japanese one needs MeCab: characters instead.
TOKENIZERS = {"zh": "zh", "ja": "char", "ko": "char"}
DEFAULT_TOKENIZER = "13a"


def choose_tokenizer(task: str) -> str:
    """sacrebleu's tokeniser for `translation_en2ja`, `translation_ec` (English to Chinese), ..."""
    target = task.rpartition("_")[2].rpartition("2")[2]
    return TOKENIZERS.get("zh" if target == "ec" else target, DEFAULT_TOKENIZER)


def measure_translations(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> dict[str, Measure]:
    """`bleu`, with per-clip rows of lengths and of n-grams right and all."""
    scorer = BLEU(tokenize=tokenizer, effective_order=True)  # per clip; the counts are the same
    rows = []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        score = scorer.sentence_score(hypothesis, list(texts))
        pairs = zip(score.counts, score.totals, strict=True)
        rows.append([score.sys_len, score.ref_len, *(n for pair in pairs for n in pair)])
    return {"bleu": Measure(np.array(rows, dtype=np.float64), compute_sacrebleu)}


def compute_sacrebleu(sums: np.ndarray) -> np.ndarray:
    """Corpus BLEU (0 to 100) of summed rows (..., 2 + 2 * 4) -> (...)."""
    length, reference_length = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2::2], sums[..., 3::2]  # (..., 4)
    num_missed = np.cumsum(right == 0, axis=-1)  # each order without a hit halves the rest
    smoothed = np.where(right > 0, right, 0.5**num_missed)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = smoothed / total
        brevity = np.exp(np.minimum(0, 1 - reference_length / length))
        bleu = 100 * brevity * np.exp(np.log(precisions).mean(axis=-1))
    is_defined = (right.sum(axis=-1) > 0) & (total > 0).all(axis=-1) & (length > 0)
    return np.where(is_defined, bleu, 0.0)


def describe_scorer(tokenizer: str) -> str:
    """sacrebleu's own signature of what `bleu` is."""
    return str(BLEU(tokenize=tokenizer).get_signature())
