"""Figures of every task: known values, perfect answers, order of clips, mistakes."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from audiolm.errors import UserError
from audiolm.evaluation.aac import compute_caption_scores
from audiolm.evaluation.asr import compute_wer
from audiolm.evaluation.scores import score_answers
from audiolm.evaluation.tasks import KINDS, find_score_kind
from audiolm.evaluation.transcripts import split_characters, split_phones
from audiolm.evaluation.translation import choose_tokenizer

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "audiolm-trainer" / "prompts"
WORDS = st.lists(
    st.sampled_from("A dog barks isn't two, café 한국 man yes the".split()), min_size=1
)
CLIPS = st.lists(st.tuples(WORDS.map(" ".join), WORDS.map(" ".join)), min_size=2, max_size=6)
SCORED_TASKS = (
    "asr", "asr_ko", "phone_recognition", "audiocaption_v2", "gender_recognition", "QA",
    "translation_en2de",
)  # fmt: skip


@pytest.mark.parametrize("name", ["train_prompt.json", "test_prompt.json"])
def test_every_task_of_the_prompt_files_has_a_score(name):
    for task in json.loads((PROMPTS / name).read_text(encoding="utf-8")):
        assert find_score_kind(task) in KINDS, task


@pytest.mark.parametrize(
    ("task", "primary"),
    [
        ("asr", "wer"),
        ("asr_de", "wer"),
        ("asr_zh", "cer"),
        ("asr_ja", "cer"),
        ("asr_ko_v2", "cer"),
        ("phone_recognition", "phone_error_rate"),
        ("audiocaption", "cider_d"),
        ("audiocaption_v2", "cider_d"),
        ("emotion_recognition", "accuracy"),
        ("speaker_verification", "accuracy"),
        ("gender_QA", "exact_match"),
        ("translation_ec", "bleu"),
    ],
)
def test_first_figure_is_the_task_s_own(task, primary):
    kind = find_score_kind(task)
    assert kind is not None
    assert kind.primary == primary
    assert next(iter(score_answers(task, ["a b", "c"], ["a b", "d"]))) == primary


def test_unknown_task_is_decoded_but_has_no_score():
    assert find_score_kind("asrx") is None
    with pytest.raises(UserError, match="task 'asrx' has no score: those that do are asr, "):
        score_answers("asrx", ["a"], ["a"])


@pytest.mark.parametrize("task", SCORED_TASKS)
def test_perfect_answers_have_the_best_figures(task):
    texts = ["A man speaks to a small crowd.", "Rain falls on the tin roof, loudly"]
    found = score_answers(task, [text.upper() for text in texts], texts)
    kind = find_score_kind(task)
    assert kind is not None
    best = 0.0 if kind.is_error else {"cider_d": 10.0, "bleu": 100.0}.get(kind.primary, 1.0)
    if task.startswith("translation"):  # whose case counts
        found = score_answers(task, texts, texts)
    primary = found[kind.primary]
    assert (primary.value, primary.low, primary.high) == pytest.approx((best,) * 3, abs=1e-6)
    assert primary.num_clips == 2


@settings(deadline=None, max_examples=40)
@given(CLIPS, st.sampled_from(SCORED_TASKS), st.randoms())
def test_order_of_clips_does_not_matter(clips, task, random):
    def values():
        found = score_answers(task, [h for h, _ in clips], [[r] for _, r in clips])
        return {name: interval.value for name, interval in found.items()}

    before = values()
    random.shuffle(clips)
    assert values() == pytest.approx(before, abs=1e-9)


def test_transcripts_and_captions_are_the_same_figures_as_one_by_one():
    hypotheses = ["the cat sat on mat", "five percent", ""]
    references = ["The cat sat on the mat.", "5 %", "hello there"]
    found = score_answers("asr", hypotheses, references)
    for name, scorer in (("wer", "reference"), ("wer_open_asr", "open_asr")):
        assert found[name].value == compute_wer(hypotheses, references, scorer).wer
    assert found["empty_share"].value == pytest.approx(1 / 3)
    lists = [[text] for text in references]
    captions = score_answers("audiocaption", hypotheses, lists)
    assert {name: interval.value for name, interval in captions.items()} == compute_caption_scores(
        hypotheses, lists, tuple(captions)
    )


def test_known_character_error_rates():
    # kitten -> sitting: 3 edits of 7 characters (Levenshtein's textbook pair)
    assert score_answers("asr", ["kitten"], ["sitting"])["cer"].value == pytest.approx(3 / 7)
    # one syllable of five is another, spaces and stops do not count
    found = score_answers("asr_ko", ["안녕 하세오."], ["안녕하세요"])
    assert found["cer"].value == pytest.approx(1 / 5)
    assert split_characters("Ｈi, 世界!") == ["h", "i", "世", "界"]


def test_known_phone_error_rates():
    assert split_phones("HH AH0 L OW1") == ["hh", "ah", "l", "ow"]
    assert split_phones("həˈloʊ") == list("həloʊ")
    assert split_phones("AH0") == ["ah"]
    found = score_answers("phone_recognition", ["hh ah l"], ["HH AH0 L OW1"])
    assert found["phone_error_rate"].value == 0.25


@pytest.mark.parametrize(
    ("hypothesis", "reference", "is_right"),
    [
        ("Female.", "woman", True),
        ("The speaker is a woman.", "female", True),
        ("a man or a woman", "woman", False),
        ("male", "female", False),
        ("", "male", False),
        ("No, they are different.", "no", True),
        ("They are not the same person.", "no", True),
        ("Yes, it is the same speaker", "yes", True),
        ("He sounds sad", "sadness", True),
        ("very happy", "angry", False),
    ],
)
def test_labels(hypothesis, reference, is_right):
    others = ["man", "woman", "yes", "no", "sad", "happy", "angry"]
    found = score_answers("gender_recognition", [hypothesis, *others], [reference, *others])
    assert found["accuracy"].value == pytest.approx((7 + is_right) / 8)


def test_answers_with_several_references():
    found = score_answers("QA", ["The red fox.", "two dogs bark"], [["a cat", "red fox"], ["two"]])
    assert found["exact_match"].value == 0.5
    assert found["contains"].value == 1.0
    assert found["token_f1"].value == pytest.approx((1 + 0.5) / 2)  # 2 * 1 / (3 + 1)


TRANSLATIONS = [
    ("the cat is on the mat today", "the cat sat on the mat today"),
    ("There is a dog", "there is one dog in here"),
    ("", "nothing"),
    ("a b c d e f g", "a b c d e f g h"),
]


@pytest.mark.parametrize("num_clips", [1, 2, 3, 4])
def test_translation_equals_sacrebleu(num_clips):
    hypotheses, references = zip(*TRANSLATIONS[:num_clips], strict=True)
    expected = BLEU().corpus_score(list(hypotheses), [list(references)]).score
    found = score_answers("translation_en2de", hypotheses, references)["bleu"]
    assert found.value == pytest.approx(expected, abs=1e-9)  # float64 logarithms


@settings(deadline=None, max_examples=60)
@given(CLIPS)
def test_translation_of_any_text_equals_sacrebleu(clips):
    hypotheses, references = [h for h, _ in clips], [r for _, r in clips]
    expected = BLEU(tokenize="zh").corpus_score(hypotheses, [references]).score
    found = score_answers("translation_ec", hypotheses, references)["bleu"]
    assert found.value == pytest.approx(expected, abs=1e-9)


def test_tokeniser_follows_the_target_language():
    tasks = ("translation_ec", "translation_en2ja", "translation_en2de")
    assert [choose_tokenizer(task) for task in tasks] == ["zh", "char", "13a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("asr", ["a"], ["a", "b"]), "1 hypotheses against 2 references"),
        (("QA", [], []), "no clips to score"),
        (("audiocaption", ["a"], ["a"]), "score at least 2 clips"),
    ],
)
def test_unusable_input_is_a_user_error(arguments, message):
    with pytest.raises(UserError, match=message):
        score_answers(*arguments)
