"""Scores of audio captions, and the score that one constant caption would get.

In: one hypothesis and a list of reference captions per clip. Out: a dict from metric to figure.

Without Java: CIDEr-D (0 to 10), BLEU-1 to BLEU-4 and ROUGE-L (0 to 1). With Java and the files of
`aac-metrics-download`: METEOR, SPICE, SPIDEr (the mean of CIDEr-D and SPICE) and SPIDEr-FL; FENSE
needs the files only. All are computed by aac-metrics; none is ever replaced by another.

CIDEr-D (Vedantam et al. 2015) reaches 10.0 for a clip whose hypothesis equals all its references
and has an n-gram of each length that some other clip lacks; three words reach 7.5, for want of a
4-gram. Its n-gram weights come from the references, so it depends on the set of clips.
"""

from collections.abc import Callable, Sequence

import numpy as np

from audiolm.errors import UserError
from audiolm.evaluation.caption_bounds import ReferenceIndex
from audiolm.evaluation.caption_counts import measure_captions
from audiolm.evaluation.caption_programs import measure_by_program
from audiolm.evaluation.caption_tokens import CaptionTokens, number_tokens
from audiolm.evaluation.intervals import Measure, mean_of
from audiolm.evaluation.metric_requirements import (
    JAVA_METRICS,
    check_metrics_available,
    find_problem,
)
from audiolm.evaluation.ptb_tokenizer import tokenize_ptb

JAVA_FREE_METRICS = ("cider_d", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")
PROGRAM_METRICS = (*JAVA_METRICS, "fense")
METRICS = (*JAVA_FREE_METRICS, *PROGRAM_METRICS)

_TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"ptb": tokenize_ptb, "split": str.split}


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
    tokens = _tokenize(hypotheses, references, tokenizer, metrics)
    check_metrics_available(metrics)
    measures = measure_captions(tokens, n=n, sigma=sigma)
    for metric in metrics:
        options = {"n": n, "sigma": sigma} if metric == "spider_fl" else {}
        _add_measure(measures, metric, tokens, options)
    return {metric: measures[metric].value for metric in metrics}


def measure_program_metrics(
    tokens: CaptionTokens, cider_d: Measure
) -> tuple[dict[str, Measure], list[str]]:
    """METEOR, SPICE, SPIDEr, SPIDEr-FL and FENSE, as many of them as can be computed here.

    Args:
        tokens: the Penn Treebank's (`tokenize_captions`).
        cider_d: the same clips' CIDEr-D, one half of SPIDEr.

    Returns:
        What was computed, clip by clip, and a line per reason why something was not.
    """
    measures: dict[str, Measure] = {"cider_d": cider_d}
    missing, reasons = [], []
    for metric in PROGRAM_METRICS:
        if find_problem((metric,)):
            missing.append(metric)
            continue
        try:
            _add_measure(measures, metric, tokens, {})
        except UserError as error:
            reasons.append(str(error))
    if missing:
        reasons.insert(0, find_problem(missing))
    del measures["cider_d"]
    return measures, reasons


def _add_measure(
    measures: dict[str, Measure],
    metric: str,
    tokens: CaptionTokens,
    options: dict[str, float],
) -> None:
    """Put a metric into `measures`, if it is not there; SPIDEr is the mean of two others."""
    if metric in measures:
        return
    if metric != "spider":
        measures[metric] = measure_by_program(metric, *tokens.joined(), options)
        return
    _add_measure(measures, "spice", tokens, options)
    halves = [measures[name].rows[:, 0] for name in ("cider_d", "spice")]
    measures[metric] = mean_of(np.mean(halves, axis=0))


def measure_caption_texts(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "ptb"
) -> dict[str, Measure]:
    """The Java-free metrics of captions, clip by clip.

    Raises:
        UserError: as `compute_caption_scores`.
    """
    return measure_captions(tokenize_captions(hypotheses, references, tokenizer))


def tokenize_captions(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "ptb"
) -> CaptionTokens:
    """Tokens of hypotheses and of references that the Java-free metrics are defined on.

    Raises:
        UserError: as `compute_caption_scores`.
    """
    _check_choices(JAVA_FREE_METRICS, tokenizer)
    _check_texts(hypotheses, references)
    return _tokenize(hypotheses, references, tokenizer, JAVA_FREE_METRICS)


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
    silence = [""] * len(references)
    _check_texts(silence, references)
    _tokenize(silence, references, tokenizer, ("cider_d",))
    tokenize = _TOKENIZERS[tokenizer]
    index = ReferenceIndex([[tokenize(text) for text in texts] for texts in references])
    caption_of: dict[tuple[str, ...], str] = {}
    for caption in candidates:
        caption_of.setdefault(tuple(tokenize(caption)), caption)
    best = caption_of[max(caption_of, key=index.constant_score)]
    scores = compute_caption_scores([best] * len(references), references, ("cider_d",), tokenizer)
    return best, scores["cider_d"]


def check_metric_names(metrics: Sequence[str]) -> None:
    """Refuse, with a `UserError`, names that are not in `METRICS`."""
    if isinstance(metrics, str) or not metrics:
        raise UserError(f"metrics is {metrics!r}: give a list of names out of {', '.join(METRICS)}")
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"unknown metric {metric!r}: choose out of {', '.join(METRICS)}")


def _check_choices(metrics: Sequence[str], tokenizer: str) -> None:
    check_metric_names(metrics)
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


def _tokenize(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: str,
    metrics: Sequence[str],
) -> CaptionTokens:
    """Tokens on which all of `metrics` are defined; else a `UserError`."""
    if len(references) < 2 and {"cider_d", "spider", "spider_fl"} & set(metrics):
        raise UserError(
            "CIDEr-D of 1 clip is not defined, its n-gram weights come from the whole set: "
            "score at least 2 clips"
        )
    tokens = number_tokens(hypotheses, references, _TOKENIZERS[tokenizer])
    if not tokens.layout.lengths[tokens.layout.is_reference].any():
        raise UserError("no reference holds a word: there is nothing to score against")
    return tokens
