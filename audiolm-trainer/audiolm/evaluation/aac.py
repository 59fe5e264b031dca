"""Scores of audio captions, and the score that one constant caption would get.

In: one hypothesis and a list of reference captions per clip. Out: a dict from metric to figure.

Without Java: CIDEr-D (0 to 10), BLEU-1 to BLEU-4 and ROUGE-L (0 to 1). With Java and the files of
`aac-metrics-download`: METEOR, SPICE, SPIDEr (the mean of CIDEr-D and SPICE) and SPIDEr-FL; FENSE
needs the files only. All are computed by aac-metrics; none is ever replaced by another.

CIDEr-D (Vedantam et al. 2015) reaches 10.0 for a clip whose hypothesis equals all its references
and has an n-gram of each length that some other clip lacks; three words reach 7.5, for want of a
4-gram. Its n-gram weights come from the references, so it depends on the set of clips.
"""

import logging
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from audiolm.errors import UserError
from audiolm.evaluation.caption_counts import measure_captions
from audiolm.evaluation.intervals import Measure
from audiolm.evaluation.metric_requirements import (
    DOWNLOAD_COMMAND,
    JAVA_METRICS,
    check_metrics_available,
)
from audiolm.evaluation.ptb_tokenizer import tokenize_ptb

JAVA_FREE_METRICS = ("cider_d", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")
METRICS = (*JAVA_FREE_METRICS, *JAVA_METRICS, "fense")

_TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"ptb": tokenize_ptb, "split": str.split}
_CIDER_SCALE = 10.0


def compute_caption_scores(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = ("cider_d",),
    tokenizer: str = "ptb",
    *,
    n: int = 4,
    sigma: float = 6.0,
) -> dict[str, float]:
    """Corpus scores of `hypotheses`, one figure for each of `metrics`.

    Args:
        hypotheses: one caption per clip.
        references: the reference captions of each clip, in the same order.
        metrics: names out of `METRICS`.
        tokenizer: `ptb` lower-cases, cuts as the Penn Treebank and drops punctuation, on both sides
            (`ptb_tokenizer`); `split` cuts at spaces and changes nothing, the organiser's way.
        n, sigma: longest n-gram and width of the length penalty of CIDEr-D.

    Raises:
        UserError: unknown metric or tokenizer; texts that cannot be scored (different lengths,
            one clip only for CIDEr-D, no words in the references); Java or a download is missing.
    """
    _check_choices(metrics, tokenizer)
    _check_texts(hypotheses, references)
    tokenize = _TOKENIZERS[tokenizer]
    tokens = [[tokenize(text) for text in texts] for texts in references]
    _check_words(tokens, metrics)
    check_metrics_available(metrics)
    candidates = [tokenize(text) for text in hypotheses]
    measures = measure_captions(candidates, tokens, n=n, sigma=sigma)
    scores = {metric: measure.value for metric, measure in measures.items()}
    for metric in _metrics_to_run(metrics):
        if metric not in scores:
            options = {"n": n, "sigma": sigma} if metric == "spider_fl" else {}
            scores[metric] = _run_metric(metric, candidates, tokens, options)
    if "spider" in metrics:
        scores["spider"] = (scores["cider_d"] + scores["spice"]) / 2
    return {metric: scores[metric] for metric in metrics}


def measure_caption_texts(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "ptb"
) -> dict[str, Measure]:
    """The Java-free metrics of captions, clip by clip.

    Raises:
        UserError: as `compute_caption_scores`.
    """
    _check_choices(JAVA_FREE_METRICS, tokenizer)
    _check_texts(hypotheses, references)
    tokenize = _TOKENIZERS[tokenizer]
    tokens = [[tokenize(text) for text in texts] for texts in references]
    _check_words(tokens, JAVA_FREE_METRICS)
    return measure_captions([tokenize(text) for text in hypotheses], tokens)


def compute_best_constant_caption(
    references: Sequence[Sequence[str]], candidates: Sequence[str], tokenizer: str = "ptb"
) -> tuple[str, float]:
    """The one of `candidates` that scores best as the caption of every clip, and its CIDEr-D.

    What a model that never listens can get: a floor for any model. Of equals, the first one.
    Hundreds of candidates against hundreds of clips take about a second.

    Raises:
        UserError: no candidates, or references that cannot be scored (as `compute_caption_scores`).
    """
    _check_choices(("cider_d",), tokenizer)
    if not candidates:
        raise UserError("no candidate captions: give at least one, for example all references")
    _check_texts([""] * len(references), references)
    tokenize = _TOKENIZERS[tokenizer]
    tokens = [[tokenize(text) for text in texts] for texts in references]
    _check_words(tokens, ("cider_d",))
    index = _ReferenceIndex(tokens)
    caption_of: dict[tuple[str, ...], str] = {}
    for caption in candidates:
        caption_of.setdefault(tuple(tokenize(caption)), caption)
    best = caption_of[max(caption_of, key=index.constant_score)]
    scores = compute_caption_scores([best] * len(references), references, ("cider_d",), tokenizer)
    return best, scores["cider_d"]


class _ReferenceIndex:
    """CIDEr-D's tf-idf vectors of all references, by n-gram, to score a caption against all clips.

    R counts all references of all clips; row r of every array is one of them.
    """

    def __init__(
        self, references: Sequence[Sequence[Sequence[str]]], n: int = 4, sigma: float = 6.0
    ):
        self.n, self.sigma = n, sigma
        counts = [[_count_ngrams(tokens, self.n) for tokens in texts] for texts in references]
        clip_frequency = Counter(ngram for texts in counts for ngram in set().union(*texts))
        self.log_num_clips = np.log(float(len(references)))
        self.idf = {g: self.log_num_clips - np.log(float(f)) for g, f in clip_frequency.items()}
        rows = [count for texts in counts for count in texts]
        self.norms = np.zeros((self.n, len(rows)))  # (n, R)
        self.lengths = np.array([_length(count) for count in rows], dtype=float)  # (R,)
        # every clip weighs the same, and every reference within a clip
        self.weights = np.concatenate([np.full(len(texts), 1 / len(texts)) for texts in counts])
        self.weights /= len(references)
        postings: dict[tuple[str, ...], list[tuple[int, float]]] = {}
        for row, count in enumerate(rows):
            for ngram, frequency in count.items():
                value = frequency * self.idf[ngram]
                postings.setdefault(ngram, []).append((row, value))
                self.norms[len(ngram) - 1, row] += value**2
        self.norms = np.sqrt(self.norms)
        self.postings = {
            ngram: (np.array([row for row, _ in pairs]), np.array([value for _, value in pairs]))
            for ngram, pairs in postings.items()
        }

    def constant_score(self, tokens: Sequence[str]) -> float:
        """CIDEr-D of `tokens` given as the caption of every clip."""
        count = _count_ngrams(tokens, self.n)
        similarities = np.zeros_like(self.norms)  # (n, R)
        norms = np.zeros((self.n, 1))
        for ngram, frequency in count.items():
            value = frequency * self.idf.get(ngram, self.log_num_clips)
            norms[len(ngram) - 1] += value**2
            if ngram in self.postings:
                rows, values = self.postings[ngram]
                similarities[len(ngram) - 1, rows] += np.minimum(value, values) * values
        norms = np.sqrt(norms) * self.norms
        similarities = np.divide(similarities, norms, out=similarities, where=norms != 0)
        penalty = np.exp(-((_length(count) - self.lengths) ** 2) / (2 * self.sigma**2))
        return float(_CIDER_SCALE * (similarities.mean(axis=0) * penalty) @ self.weights)


def _count_ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(tokens[start : start + size])
        for size in range(1, n + 1)
        for start in range(len(tokens) - size + 1)
    )


def _length(count: Counter[tuple[str, ...]]) -> int:
    """A caption's length as CIDEr-D counts it: its number of bigrams."""
    return sum(frequency for ngram, frequency in count.items() if len(ngram) == 2)


def _check_choices(metrics: Sequence[str], tokenizer: str) -> None:
    if isinstance(metrics, str) or not metrics:
        raise UserError(f"metrics is {metrics!r}: give a list of names out of {', '.join(METRICS)}")
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"unknown metric {metric!r}: choose out of {', '.join(METRICS)}")
    if tokenizer not in _TOKENIZERS:
        raise UserError(f"unknown tokenizer {tokenizer!r}: choose one of {', '.join(_TOKENIZERS)}")


def _check_texts(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(hypotheses) != len(references):
        raise UserError(
            f"{len(hypotheses)} hypotheses against the references of {len(references)} clips: "
            "caption scores need one hypothesis and one list of references per clip"
        )
    if not hypotheses:
        raise UserError("no clips to score: caption scores need at least one")
    for index, texts in enumerate(references):
        if isinstance(texts, str):
            raise UserError(f"references[{index}] is a text: give a list of references per clip")
        if not texts:
            raise UserError(f"references[{index}] is empty: each clip needs at least one reference")


def _check_words(references: Sequence[Sequence[list[str]]], metrics: Sequence[str]) -> None:
    """Refuse tokenised references on which one of `metrics` is not defined."""
    if len(references) < 2 and {"cider_d", "spider", "spider_fl"} & set(metrics):
        raise UserError(
            "CIDEr-D of 1 clip is not defined, its n-gram weights come from the whole set: "
            "score at least 2 clips"
        )
    if not any(words for texts in references for words in texts):
        raise UserError("no reference holds a word: there is nothing to score against")


def _metrics_to_run(metrics: Sequence[str]) -> list[str]:
    """The metrics to ask of aac-metrics, once each; SPIDEr is made of two of them."""
    names: dict[str, None] = {}
    for metric in metrics:
        names.update(dict.fromkeys(("cider_d", "spice") if metric == "spider" else (metric,)))
    return list(names)


def _run_metric(
    metric: str,
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    options: dict[str, float],
) -> float:
    candidates = [" ".join(tokens) for tokens in hypotheses]
    mult_references = [[" ".join(tokens) for tokens in texts] for texts in references]
    try:
        with _silence():
            from aac_metrics import functional  # takes seconds, so not before there is a need

            corpus_scores, _ = getattr(functional, metric)(candidates, mult_references, **options)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"{metric} could not be computed ({error}): run `{DOWNLOAD_COMMAND}` again"
        ) from error
    return float(corpus_scores[metric])


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the log lines and warnings of other libraries off the user's screen."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
