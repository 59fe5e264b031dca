"""CIDEr-D, BLEU and ROUGE-L against aac-metrics: its own examples, and random captions."""

from typing import Any

import numpy as np
import pytest
from aac_metrics import functional
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.evaluation import caption_counts
from audiolm.evaluation.caption_counts import compute_bleu, count_ngrams
from audiolm.evaluation.caption_tokens import number_tokens
from audiolm.evaluation.intervals import Measure

# The example of aac-metrics' README and those of its tests' shape: several references, repeats,
# hypotheses of one word, of none, longer and shorter than the references.
EXAMPLES = [
    (
        ["a man is speaking", "rain falls"],
        [
            ["a man speaks.", "someone speaks.", "a man is speaking while a bird is chirping"],
            ["rain is falling hard on a surface"],
        ],
    ),
    (
        ["the the the the", "", "dog", "a b c d e f g h i j"],
        [["the cat", "the dog the"], ["a sound"], ["dog", "dog barks"], ["a b c d", "e f g"]],
    ),
    (["x y", "x y", "x y"], [["x y"], ["x y z", "y"], ["q"]]),
]
WORDS = st.lists(st.sampled_from("a b c d e dog".split()), max_size=9)
CLIPS = st.lists(
    st.tuples(WORDS, st.lists(WORDS.filter(bool), min_size=1, max_size=4)), min_size=2, max_size=7
)

CLIPS_OF_SEVERAL = st.lists(
    st.tuples(WORDS, st.lists(WORDS, min_size=2, max_size=4)), min_size=2, max_size=6
)


def measure_captions(
    hypotheses: list[list[str]], references: list[list[list[str]]], **options: Any
) -> dict[str, Measure]:
    """The scores of captions whose words are known."""
    return caption_counts.measure_captions(number_tokens(hypotheses, references, list), **options)


def measure_by_aac_metrics(
    hypotheses: list[list[str]], references: list[list[list[str]]]
) -> dict[str, tuple[float, np.ndarray]]:
    """Corpus figure and per-clip figures of each metric."""
    candidates = [" ".join(tokens) for tokens in hypotheses]
    mult_references = [[" ".join(tokens) for tokens in texts] for texts in references]
    found = {}
    for name in ("cider_d", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"):
        corpus, clips = getattr(functional, name)(candidates, mult_references)
        found[name] = float(corpus[name]), clips[name].numpy()
    return found


def expect_equal(hypotheses: list[list[str]], references: list[list[list[str]]]) -> None:
    """The same formulas in float64, summed in another order: 1e-9 (the metrics go up to 10)."""
    expected = measure_by_aac_metrics(hypotheses, references)
    measures = measure_captions(hypotheses, references)
    assert list(measures) == list(expected)
    for name, (corpus, clips) in expected.items():
        assert measures[name].value == pytest.approx(corpus, abs=1e-9), name
        if name in ("cider_d", "rouge_l"):
            np.testing.assert_allclose(measures[name].rows[:, 0], clips, atol=1e-9)
        else:
            each = compute_bleu(measures[name].rows)
            np.testing.assert_allclose(each, clips, atol=1e-9)


@pytest.mark.parametrize(("hypotheses", "references"), EXAMPLES)
def test_equal_to_aac_metrics_on_examples(hypotheses, references):
    expect_equal(
        [text.split() for text in hypotheses], [[t.split() for t in texts] for texts in references]
    )


@settings(deadline=None, max_examples=100)
@given(CLIPS)
def test_equal_to_aac_metrics_on_any_captions(clips):
    expect_equal([hypothesis for hypothesis, _ in clips], [texts for _, texts in clips])


@settings(deadline=None, max_examples=30)
@given(CLIPS, st.sampled_from([1, 2, 3, 5]), st.sampled_from([0.5, 3.0, 6.0]))
def test_cider_d_of_other_orders_and_widths(clips, n, sigma):
    hypotheses, references = [c[0] for c in clips], [c[1] for c in clips]
    candidates = [" ".join(tokens) for tokens in hypotheses]
    mult_references = [[" ".join(tokens) for tokens in texts] for texts in references]
    corpus: Any = functional.cider_d(candidates, mult_references, n=n, sigma=sigma)[0]
    found = measure_captions(hypotheses, references, n=n, sigma=sigma)["cider_d"].value
    assert found == pytest.approx(float(corpus["cider_d"]), abs=1e-9)


def test_reference_without_words_is_a_miss():
    measures = measure_captions([["a"], ["b"]], [[["a"], []], [[]]])
    assert measures["rouge_l"].rows[:, 0].tolist() == [1.0, 0.0]


def test_captions_without_any_word_score_zero():
    measures = measure_captions([[], []], [[[]], [[], []]])
    assert [measure.value for measure in measures.values()] == pytest.approx([0] * 6, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(CLIPS_OF_SEVERAL)
def test_references_against_each_other_are_scored_like_answers(clips):
    hypotheses, references = [c[0] for c in clips], [c[1] for c in clips]
    counts = count_ngrams(number_tokens(hypotheses, references, list)).without_hypotheses()
    firsts, others = [texts[0] for texts in references], [texts[1:] for texts in references]
    expected = measure_captions(firsts, others)
    np.testing.assert_allclose(counts.cider_d(), expected["cider_d"].rows[:, 0], atol=1e-12)
    np.testing.assert_array_equal(counts.bleu_rows(), expected["bleu_4"].rows)


@settings(deadline=None, max_examples=30)
@given(CLIPS)
def test_words_and_texts_are_those_that_came_in(clips):
    hypotheses, references = [c[0] for c in clips], [c[1] for c in clips]
    tokens = number_tokens(hypotheses, references, list)
    texts = [" ".join(h) for h in hypotheses], [[" ".join(t) for t in ts] for ts in references]
    assert tokens.joined() == texts
    assert tokens.hypothesis_words() == {word for words in hypotheses for word in words}
    assert tokens.reference_words() == {w for ts in references for words in ts for w in words}
    assert tokens.unique_hypothesis_share() == len(set(texts[0])) / len(clips)
