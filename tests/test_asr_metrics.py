"""WER against the recorded figures of the reference scorer, its edge cases and its invariances."""

import json
from pathlib import Path

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.errors import UserError
from audiolm.evaluation import asr, transcript_normalizer
from audiolm.evaluation.asr import (
    WerResult,
    compute_wer,
    tokenize_open_asr,
    tokenize_reference,
)
from audiolm.evaluation.transcript_normalizer import build_normalizer, normalize_transcript

GOLDEN_DIR = Path(__file__).parent / "data" / "golden" / "metrics"
GOLDEN = json.loads((GOLDEN_DIR / "wer_dev.json").read_text(encoding="utf-8"))
PROBES = json.loads((GOLDEN_DIR / "normalizer_probes.json").read_text(encoding="utf-8"))
PAIRS = GOLDEN["pairs"]

WORDS = st.text(alphabet="abcdefgimnorstuvwyzéü한국어123'-", min_size=1, max_size=8)
SENTENCES = st.lists(WORDS, max_size=8).map(" ".join)


def count_edits(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein distance of two lists by the textbook's table."""
    previous = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, start=1):
        current = [i]
        for j, other in enumerate(hypothesis, start=1):
            step = previous[j - 1] + (word != other)
            current.append(min(step, previous[j] + 1, current[-1] + 1))
        previous = current
    return previous[-1]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: repr(probe["text"]))
def test_normaliser_equals_probe(probe):
    assert normalize_transcript(probe["text"]) == probe["norm"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: repr(pair["hyp"]))
def test_pair_equals_golden(pair):
    assert normalize_transcript(pair["hyp"]) == pair["norm_hyp"]
    assert normalize_transcript(pair["ref"]) == pair["norm_ref"]
    assert tokenize_reference(pair["hyp"]) == pair["tok_hyp"]
    assert tokenize_reference(pair["ref"]) == pair["tok_ref"]
    result = compute_wer([pair["hyp"]], [pair["ref"]])
    assert result.substitutions + result.deletions + result.insertions == pair["distance"]
    assert result.num_words == pair["ref_len"]


def test_corpus_figure_equals_golden():
    result = compute_wer([pair["hyp"] for pair in PAIRS], [pair["ref"] for pair in PAIRS])
    assert result.wer == GOLDEN["wer"]
    assert result.num_words == GOLDEN["ref_length"]
    assert result.substitutions + result.deletions + result.insertions == GOLDEN["distance"]


@pytest.mark.parametrize("scorer", ["reference", "open_asr"])
@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        # counted by hand: (S + D + I) / N of NIST's sclite; jiwer agrees on any text (below)
        ("a b c", "a b c", WerResult(0.0, 0, 0, 0, 3)),
        ("a x c", "a b c", WerResult(1 / 3, 1, 0, 0, 3)),
        ("a c", "a b c", WerResult(1 / 3, 0, 1, 0, 3)),
        ("a b b c", "a b c", WerResult(1 / 3, 0, 0, 1, 3)),
        ("", "a b c", WerResult(1.0, 0, 3, 0, 3)),
        ("x y z w", "a", WerResult(4.0, 1, 0, 3, 1)),
        # empty references: as if there had been one word
        ("", "", WerResult(0.0, 0, 0, 0, 0)),
        ("heard something", "", WerResult(2.0, 0, 0, 2, 0)),
        ("heard", "uh, hmm.", WerResult(1.0, 0, 0, 1, 0)),
        ("[noise]", "(laughs)", WerResult(0.0, 0, 0, 0, 0)),
    ],
)
def test_known_values(scorer, hypothesis, reference, expected):
    assert compute_wer([hypothesis], [reference], scorer=scorer) == expected


def test_empty_reference_stays_among_others():
    assert compute_wer(["x y", "a b"], ["", "a b"]) == WerResult(1.0, 0, 0, 2, 2)


def test_scorers_differ_where_13a_does():
    text = "five percent, twenty five dollars"
    assert tokenize_reference(text) == ["5", "$", "25"]
    assert tokenize_open_asr(text) == ["5%", "$25"]
    assert compute_wer(["5 $25"], [text], scorer="reference").wer == 0.0
    assert compute_wer(["5 $25"], [text], scorer="open_asr").wer == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], ["a", "b"]), "1 hypotheses against 2 references"),
        (([], []), "no clips to score"),
        ((["a"], ["a"], "whisper"), "'whisper': choose one of reference, open_asr"),
    ],
)
def test_unusable_input_is_a_user_error(arguments, message):
    with pytest.raises(UserError, match=message):
        compute_wer(*arguments)


@pytest.mark.parametrize(
    "text",
    [
        "안녕하세요, 세계!",
        "日本語のテスト。",
        "नमस्ते दुनिया",
        "مرحبا ٣٤٥",
        "🎵 ♪ \u0000 \ud800",
        "1" * 5000,
        ",".join("1" * 5000),
        "and a half and a half million million",
        "point point one oh one hundredth",
    ],
    ids=lambda text: ascii(text[:20]),
)
@pytest.mark.parametrize("scorer", ["reference", "open_asr"])
def test_any_script_scores_perfect_against_itself(text, scorer):
    assert compute_wer([text], [text], scorer=scorer).wer == 0.0
    assert compute_wer(["word"], [text], scorer=scorer).wer > 0


@settings(deadline=None)
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6), st.randoms())
def test_order_of_clips_does_not_matter(pairs, random):
    before = compute_wer([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    random.shuffle(pairs)
    assert compute_wer([pair[0] for pair in pairs], [pair[1] for pair in pairs]) == before


@settings(deadline=None)
@given(SENTENCES, st.sampled_from(["reference", "open_asr"]), st.sampled_from(["", ".", " ."]))
def test_identical_text_is_perfect_whatever_the_case_and_final_stop(text, scorer, stop):
    assert compute_wer([text.upper() + stop], [text], scorer=scorer).wer == 0.0


@settings(deadline=None)
@given(SENTENCES, SENTENCES)
def test_number_of_errors_is_the_edit_distance(hypothesis, reference):
    result = compute_wer([hypothesis], [reference])
    num_errors = result.substitutions + result.deletions + result.insertions
    words = tokenize_reference(reference), tokenize_reference(hypothesis)
    assert num_errors == count_edits(*words)
    assert result.num_words == len(words[0])


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=40))
def test_no_text_crashes(text):
    assert compute_wer([text], [text]).wer == 0.0


# Words that mean something to the normaliser, alone or beside others, and such that do not.
TELLING_WORDS = st.sampled_from(
    """the and a half hmm. uh been won't st mr. let's can't one o oh double point per cent first
    fifties he's gone she'd i'ma y'all's ma'am dogs' 'tis cause 5 $3 50% a.m. e.g. ok? yes! so; no:
    done got twenty five dollars nineteen hundred colour neighbour's Smith, (laughs) [noise] 1st
    minus plus and... can't, COLOUR o'clock -- x 1,250 3.5, 0 $0 12. 1,2,3 10:30 £7.05% nd th s s.
    well-known twenty-five u.s. a-half he's-been uh-huh mr.smith half-a-million point-five cents
    1 million rd pounds negative 2nd +5 x5 5x neighbour's gotta""".split()
)


@settings(deadline=None, max_examples=500)
@given(st.lists(TELLING_WORDS, max_size=7).map(" ".join))
def test_quick_way_gives_what_the_normaliser_gives(text):
    whole = build_normalizer()(text)
    assert normalize_transcript(text) == whole
    line = asr.split_13a(whole)
    assert tokenize_reference(text) == line


def test_every_word_of_the_rules_alone():
    normalizer = build_normalizer()
    words = {*normalizer.standardize_spellings.mapping, *transcript_normalizer._words_of_rules()}
    assert len(words) > 1500
    for word in words:
        assert normalize_transcript(word) == normalizer(word), word


@pytest.mark.parametrize("space", ["\t", "\n", "  ", "\u00a0"])
def test_other_spaces_are_read_as_the_normaliser_reads_them(space):
    text = f" he's{space}been{space}5{space}s "  # a rule that holds for a single space only
    assert normalize_transcript(text) == build_normalizer()(text)


@pytest.mark.parametrize(
    ("text", "normalized", "num_looked_up"),
    [
        ("He's seen the colour, Mr. Smith!", "he is seen the color mister smith", 6),
        ("the well-known u.s. is 3.5% up", "the well known u s is 3.5% up", 5),  # "is 3.5%" is one
    ],
)
def test_quick_way_is_taken(text, normalized, num_looked_up):
    transcript_normalizer._normalize_piece.cache_clear()
    assert normalize_transcript(text) == normalized == build_normalizer()(text)
    assert transcript_normalizer._normalize_piece.cache_info().currsize == num_looked_up


@settings(deadline=None)
@given(st.lists(st.tuples(SENTENCES, SENTENCES.filter(str.strip)), min_size=1, max_size=4))
def test_counts_are_those_of_jiwer(pairs):
    words = [(h.split(), r.split()) for h, r in pairs]
    rows = asr.count_errors(words)
    expected = jiwer.process_words([r for _, r in pairs], [h for h, _ in pairs])
    assert rows.sum(axis=0).tolist() == [
        expected.substitutions,
        expected.deletions,
        expected.insertions,
        expected.hits + expected.substitutions + expected.deletions,
    ]
