"""Comparing saved predictions: differences, wins, changed clips, and what is refused."""

import json
from pathlib import Path

import pytest

import evaluate_salmonn
from audiolm.errors import UserError
from audiolm.evaluation.compare import compare_systems, describe_comparison
from audiolm.evaluation.predictions import Prediction, save_predictions

REFERENCES = ["the cat sat", "a dog barks loudly", "rain falls", "he said hello to her"] * 10


def save(path: Path, texts: list[str], task: str = "asr", **changes: object) -> str:
    rows = [
        Prediction(i, f"{i}.wav", None, task, "", text, [reference])
        for i, (text, reference) in enumerate(zip(texts, REFERENCES, strict=True))
    ]
    save_predictions(path, rows)
    return str(path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """A hears one word of each clip wrong; B only of the first, where it also adds two."""
    a = [text.rsplit(" ", 1)[0] + " x" for text in REFERENCES]
    b = ["the cat x y z", *REFERENCES[1:]]
    return save(tmp_path / "a.jsonl", a), save(tmp_path / "b.jsonl", b)


def test_difference_and_its_parts(pair):
    wer = next(c for c in compare_systems(*pair) if c.name == "wer")
    assert wer.value_a == pytest.approx(40 / 140)
    assert wer.value_b == pytest.approx(3 / 140)
    assert wer.difference.value == pytest.approx(-37 / 140)
    assert wer.difference.low < -0.2
    assert wer.difference.high < 0
    assert wer.difference.p_value == pytest.approx(2 / 1001)
    assert (wer.wins, wer.losses, wer.num_clips) == (39, 1, 40)
    assert wer.changed[0].id == "0.wav"  # by two thirds, more than any other
    assert (wer.changed[0].figure_a, wer.changed[0].figure_b) == pytest.approx((1 / 3, 1))
    assert len(wer.changed) == 10


def test_the_other_way_round_is_the_opposite(pair):
    forward = {c.name: c.difference.value for c in compare_systems(*pair)}
    backward = {c.name: c.difference.value for c in compare_systems(*reversed(pair))}
    assert backward == pytest.approx({name: -value for name, value in forward.items()})


def test_a_system_does_not_differ_from_itself(pair):
    for comparison in compare_systems(pair[0], pair[0]):
        assert (comparison.difference.value, comparison.difference.p_value) == (0, 1)
        assert (comparison.wins, comparison.losses, comparison.changed) == (0, 0, [])


def test_better_captions_win(tmp_path):
    a = save(tmp_path / "a.jsonl", ["rain falls"] * 40, "audiocaption")
    b = save(tmp_path / "b.jsonl", REFERENCES, "audiocaption")
    cider = next(c for c in compare_systems(a, b) if c.name == "cider_d")
    assert cider.difference.value > 0
    assert (cider.wins, cider.losses) == (30, 0)


def test_lines_hold_the_numbers(pair):
    lines = "\n".join(describe_comparison(compare_systems(*pair), "first", "second"))
    assert "[asr] WER: A 28.5714%, B 2.1429%, B - A -26.43 points (95% interval " in lines
    assert "p = 0.002); of 40 clips B is better on 39, worse on 1" in lines
    assert "0.wav: 33.3% -> 100.0%" in lines


def test_command_compares_each_with_the_first(pair, tmp_path, capsys):
    out = tmp_path / "comparison.json"
    arguments = ["compare", pair[0], pair[1], pair[0], "--out", str(out)]
    assert evaluate_salmonn.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"A: {pair[0]}") == 2
    content = json.loads(out.read_text(encoding="utf-8"))
    assert set(content["others"]) == set(pair)


def rewrite(path: str, change) -> None:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in change(rows)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-2], r"2 only in .*a\.jsonl \(38\.wav, 39\.wav\)"),
        (
            lambda rows: [*rows, {**rows[0], "index": 99, "id": "new.wav"}],
            r"1 only in .*b\.jsonl \(new",
        ),
        (
            lambda rows: [{**rows[0], "references": ["other"]}, *rows[1:]],
            "references of 0.wav differ",
        ),
    ],
)
def test_different_clips_are_refused(pair, change, message):
    rewrite(pair[1], change)
    with pytest.raises(UserError, match=message):
        compare_systems(*pair)


def test_without_references_there_is_nothing_to_compare(pair):
    for path in pair:
        rewrite(path, lambda rows: [{**row, "references": []} for row in rows])
    with pytest.raises(UserError, match="clips without reference texts cannot be compared"):
        compare_systems(*pair)


def test_order_of_lines_does_not_matter(pair):
    before = compare_systems(*pair)
    rewrite(pair[1], lambda rows: rows[::-1])
    assert compare_systems(*pair) == before


def test_endless_answers_are_compared_by_their_share(tmp_path):
    def save_endless(name: str, reasons: list[str]) -> str:
        rows = [
            Prediction(i, f"{i}.wav", None, "asr", "", "a b", ["a b"], stop_reason=reason)
            for i, reason in enumerate(reasons)
        ]
        save_predictions(tmp_path / name, rows)
        return str(tmp_path / name)

    a = save_endless("a", ["looping", "runaway", "end_token", "max_new_tokens"])
    b = save_endless("b", ["end_token", "runaway", "end_token", "end_token"])
    share = next(c for c in compare_systems(a, b) if c.name == "runaway_share")
    assert (share.value_a, share.value_b) == (0.5, 0.25)
    assert (share.wins, share.losses) == (1, 0)


def test_captions_are_compared_by_every_figure_at_hand(tmp_path):
    a = save(tmp_path / "a", REFERENCES, task="audiocaption_v2")
    b = save(tmp_path / "b", REFERENCES[::-1], task="audiocaption_v2")
    found = {c.name: c for c in compare_systems(a, b)}
    assert found["cider_d_untokenised"].difference.value < 0
    assert {"cider_d", "bleu_4", "rouge_l"} < found.keys()
