"""Prompt files, their mistakes, and what a prompt looks like when it reaches the model."""

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from audiolm.errors import UserError
from audiolm.prompts import (
    SPEECH_MARKER,
    PromptBook,
    apply_template,
    draw_prompts,
    split_at_marker,
)

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "audiolm-trainer" / "prompts"
GOLDEN_PROMPTS = ROOT / "tests" / "data" / "golden" / "dev" / "prompts"
TEMPLATE = "USER: {}\nASSISTANT:"
AUDIO = f"<Speech>{SPEECH_MARKER}</Speech>"

REFERENCE_TRAIN_TASKS = """asr asr_zh asr_de translation_ec audiocaption audiocaption_v2 QA
    inference_QA gender_QA gender_recognition phone_recognition speech_separation
    emotion_recognition music_description speaker_verification""".split()
REFERENCE_TEST_TASKS = [
    *REFERENCE_TRAIN_TASKS,
    *"""translation_en2ja translation_en2de speech_query lyrics_recognition
    audio_speech_description fluent_speech_audio audio_story_telling speech_audio_query
    slot_filling speech_audio_coreasoning keywords speaker_diarization_asr""".split(),
]
QUESTION_TASKS = ("QA", "inference_QA", "gender_QA", "slot_filling")


def write_prompts(folder: Path, content: Any) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["train_prompt.json", "test_prompt.json"])
def test_every_shipped_sentence_holds_the_audio_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    book = PromptBook.load(PROMPTS / name)
    assert caplog.text == ""  # nothing was skipped
    for task in book.tasks:
        for sentence in book.choices(task):
            assert sentence.count(AUDIO) == 1
            assert sentence.count("{}") == (1 if task in QUESTION_TASKS else 0)


def test_shipped_files_hold_the_reference_tasks() -> None:
    train = PromptBook.load(PROMPTS / "train_prompt.json")
    test = PromptBook.load(PROMPTS / "test_prompt.json")
    assert set(REFERENCE_TRAIN_TASKS) <= set(train.tasks)
    assert set(REFERENCE_TEST_TASKS) <= set(test.tasks)
    for task in train.tasks:
        assert 4 <= len(set(train.choices(task))) <= 8
    for task in test.tasks:
        assert len(test.choices(task)) == 1


def test_defect_17_every_train_task_has_a_test_prompt() -> None:
    train = PromptBook.load(PROMPTS / "train_prompt.json")
    test = PromptBook.load(PROMPTS / "test_prompt.json")
    assert {"gender_recognition", "inference_QA"} <= set(train.tasks) <= set(test.tasks)


def test_golden_training_file_skips_the_sentence_without_marker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        book = PromptBook.load(GOLDEN_PROMPTS / "train_prompt.json")
    assert book.choices("asr") == (f"{AUDIO} Write down every word that is spoken.",)
    assert len(caplog.records) == 1
    assert "skipped 1 sentence" in caplog.text


def test_defect_30_test_prompt_without_marker_is_refused(tmp_path: Path) -> None:
    path = write_prompts(tmp_path, {"asr": "Transcribe."})
    with pytest.raises(UserError, match=r"prompts\.json, task 'asr': no sentence holds <SpeechHe"):
        PromptBook.load(path)


def test_defect_30_question_is_filled_in() -> None:
    book = PromptBook.load(GOLDEN_PROMPTS / "test_prompt.json")
    assert book.first("QA", "Who speaks?") == f"{AUDIO} Who speaks?"
    assert book.first("QA", 'Is {"a": 0} {} read?') == f'{AUDIO} Is {{"a": 0}} {{}} read?'
    assert book.first("QA", "") == f"{AUDIO} "
    assert book.first("asr", "not asked for") == f"{AUDIO} Transcribe the recording."


@pytest.mark.parametrize("prompt", ["no audio", f"{AUDIO} and {AUDIO}"])
def test_defect_30_split_needs_exactly_one_marker(prompt: str) -> None:
    with pytest.raises(UserError, match=f"{SPEECH_MARKER} {prompt.count(SPEECH_MARKER)} times"):
        split_at_marker(prompt)


def test_split_at_marker() -> None:
    assert split_at_marker(f"USER: {AUDIO} Hi.") == ("USER: <Speech>", "</Speech> Hi.")


def test_training_task_left_without_sentences_is_refused(tmp_path: Path) -> None:
    path = write_prompts(tmp_path, {"asr": [f"{AUDIO} a"], "QA": ["{}", f"{AUDIO}{AUDIO}"]})
    with pytest.raises(UserError, match="task 'QA': no sentence holds"):
        PromptBook.load(path)


def test_unknown_task_names_the_file_the_tasks_and_the_nearest() -> None:
    book = PromptBook.load(GOLDEN_PROMPTS / "test_prompt.json")
    with pytest.raises(UserError) as caught:
        book.first("audio_caption", "")
    for part in ("'audio_caption'", "test_prompt.json", "'audiocaption'?", "QA, asr, audiocaption"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be a non-empty object"),
        ({}, "an empty one"),
        ({"asr": 3}, "task 'asr': expected a sentence or a list of sentences, not 3"),
        ({"asr": None}, "not null"),
        ({"asr": [AUDIO, 3]}, "not a list"),
        ({"asr": []}, "no sentence holds"),
    ],
)
def test_malformed_files_are_explained(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptBook.load(write_prompts(tmp_path, content))


def test_unreadable_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.json does not exist"):
        PromptBook.load(tmp_path / "missing.json")
    with pytest.raises(UserError, match="is a folder"):
        PromptBook.load(tmp_path)
    path = tmp_path / "prompts.json"
    path.write_text('{"asr": [\n  "a"\n  "b"]}', encoding="utf-8")
    with pytest.raises(UserError, match="not valid JSON: .* line 3, column 3"):
        PromptBook.load(path)
    path.write_bytes('{"asr": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        PromptBook.load(path)


def test_draws_follow_the_generator_and_reach_every_sentence() -> None:
    book = PromptBook.load(PROMPTS / "train_prompt.json")

    def draw_hundred(seed: int) -> list[str]:
        generator = random.Random(seed)
        return [book.draw("asr", "", generator) for _ in range(100)]

    assert draw_hundred(1) == draw_hundred(1)
    assert draw_hundred(1) != draw_hundred(2)
    assert set(draw_hundred(1)) == set(book.choices("asr"))


def test_template_is_filled_once() -> None:
    assert apply_template(TEMPLATE, f"{AUDIO} {{}}") == f"USER: {AUDIO} {{}}\nASSISTANT:"
    for template in ("USER:", "{} {}"):
        with pytest.raises(UserError, match="prompt_template"):
            apply_template(template, AUDIO)


def test_batch_of_prompts_mixes_tasks_and_questions() -> None:
    book = PromptBook.load(PROMPTS / "train_prompt.json")
    samples = {"task": ["asr", "QA"] * 20, "Q": ["", "Who?"] * 20}
    per_sample = draw_prompts(book, samples, TEMPLATE, random.Random(0))
    per_batch = draw_prompts(book, samples, TEMPLATE, random.Random(0), per_sample=False)
    assert len(per_sample) == len(per_batch) == 40
    assert len(set(per_sample[::2])) > 1  # many draws of asr
    assert len(set(per_batch[::2])) == 1  # one draw of asr
    assert all("Who?" in prompt for prompt in per_sample[1::2])
    with pytest.raises(UserError, match=r"set model\.prompt_path"):
        draw_prompts(None, samples, TEMPLATE, random.Random(0))


def test_seeded_prompts_do_not_depend_on_the_split() -> None:
    """A step of 40 samples in one batch, and in pieces on processes with other states."""
    book = PromptBook.load(PROMPTS / "train_prompt.json")
    samples = {
        "task": ["asr", "QA"] * 20,
        "Q": ["", "Who?"] * 20,
        "draw_seed": [f"42/0/{position}" for position in range(40)],
    }
    for per_sample in (True, False):
        drawn: set[tuple[str, ...]] = set()
        for step in range(8):
            whole = {**samples, "step_seed": f"42/0/{step}"}
            prompts = draw_prompts(book, whole, TEMPLATE, random.Random(0), per_sample=per_sample)
            pieces: list[str] = []
            for start in range(0, 40, 5):
                piece = {key: value[start : start + 5] for key, value in samples.items()}
                source = random.Random(start)
                seeded = {**piece, "step_seed": f"42/0/{step}"}
                pieces += draw_prompts(book, seeded, TEMPLATE, source, per_sample=per_sample)
            assert pieces == prompts
            assert (len(set(prompts[::2])) == 1) != per_sample
            drawn.add(tuple(prompts))
        # The samples' own seeds say the same in each step; a task's prompt changes with the step.
        assert (len(drawn) == 1) == per_sample


def test_another_epoch_draws_other_prompts() -> None:
    book = PromptBook.load(PROMPTS / "train_prompt.json")

    def draw(epoch: int) -> list[str]:
        seeds = [f"42/{epoch}/{position}" for position in range(40)]
        samples = {"task": ["asr"] * 40, "Q": [""] * 40, "draw_seed": seeds}
        return draw_prompts(book, samples, TEMPLATE, random.Random(0))

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
