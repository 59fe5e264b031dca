"""The demo corpus: equal from its seed, splits kept apart, every event kind there and described."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm.data.annotations import load_annotation
from audiolm.data.demo import corpus, sentences, speech
from audiolm.data.demo.plan import CorpusOptions, SpeechClip, plan_scenes, plan_speech
from audiolm.data.demo.rendering import Shard, render_clips, render_shard, trim_silence
from audiolm.data.demo.scenes import (
    EVENT_KINDS,
    LAYOUTS,
    Scene,
    draw_scene,
    render_scene,
    write_captions,
)
from audiolm.errors import UserError

TINY = CorpusOptions(
    seed=3,
    num_speech=12,
    num_scenes=6,
    num_valid_speech=3,
    num_valid_scenes=2,
    num_test_speech=4,
    num_test_scenes=3,
)
ANNOTATION_NAMES = (
    *("train_digits", "train_words", "train_short", "train_speech", "train_scenes"),
    *("train_stage1", "train_stage2", "valid", "test_asr", "test_aac"),
)
has_espeak = importlib.util.find_spec("espeakng_loader") is not None
needs_espeak = pytest.mark.skipif(not has_espeak, reason="needs espeakng-loader")


def read_entries(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["annotation"]


def hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not has_espeak:
        pytest.skip("needs espeakng-loader")
    folder = tmp_path_factory.mktemp("demo") / "deeper" / "corpus"
    corpus.build_corpus(folder, TINY, num_processes=2)
    return folder


# What is in the files


def test_equal_options_give_equal_files_whatever_the_processes(tiny_corpus, tmp_path):
    summary = corpus.build_corpus(tmp_path / "again", TINY, num_processes=1)
    assert not summary.was_reused
    assert hash_files(tmp_path / "again") == hash_files(tiny_corpus)


def test_another_seed_gives_other_audio_and_texts(tiny_corpus):
    assert plan_speech(CorpusOptions(seed=4))[0] != plan_speech(CorpusOptions(seed=3))[0]
    assert plan_scenes(CorpusOptions(seed=4))[:5] != plan_scenes(CorpusOptions(seed=3))[:5]


def test_files_are_as_the_annotations_say(tiny_corpus):
    for name in ANNOTATION_NAMES:
        path = tiny_corpus / f"{name}.json"
        entries = read_entries(path)
        is_test = not name.startswith("train")
        assert len(load_annotation(path, require_text=True, require_testset_id=is_test)) > 0
        for number, entry in enumerate(entries):
            info = soundfile.info(tiny_corpus / entry["path"])
            assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
            assert entry["duration"] == pytest.approx(info.duration, abs=0.001)  # rounded to ms
            assert entry["Q"] == ""
            is_speech = entry["task"] == "asr"
            assert is_speech or entry["task"] == "audiocaption_v2"
            assert isinstance(entry["text"], str) == is_speech
            expected_id = f"test{number:04d}" if is_test else None
            assert entry.get("testset_id") == expected_id


def test_levels_leave_head_room_and_no_clip_is_silent(tiny_corpus):
    for path in (tiny_corpus / "audio").rglob("*.wav"):
        samples, _ = soundfile.read(path)
        assert np.abs(samples).max() < 0.96, path  # limited to 0.95
        assert np.sqrt(np.mean(samples**2)) > 0.01, path  # quieter than -40 dB


def test_training_files_make_a_curriculum(tiny_corpus):
    def lengths(name):
        return [len(entry["text"].split()) for entry in read_entries(tiny_corpus / f"{name}.json")]

    assert set(lengths("train_digits")) == {1}
    assert set(lengths("train_words")) <= {1, 2}
    assert set(lengths("train_short")) <= {2, 3, 4}
    assert set(lengths("train_speech")) <= set(range(2, 8))
    everything = {entry["path"] for entry in read_entries(tiny_corpus / "train_stage2.json")}
    assert len(everything) == TINY.num_speech + TINY.num_scenes
    stage_1 = read_entries(tiny_corpus / "train_stage1.json")
    assert {entry["path"] for entry in stage_1} < everything
    assert {entry["task"] for entry in stage_1} <= {"asr", "audiocaption_v2"}


def test_texts_file_holds_the_training_texts_only(tiny_corpus):
    texts = (tiny_corpus / "texts.txt").read_text(encoding="utf-8").splitlines()
    expected = []
    for entry in read_entries(tiny_corpus / "train_stage2.json"):
        expected += [entry["text"]] if isinstance(entry["text"], str) else entry["text"]
    assert texts == expected


# The folder


def test_a_finished_corpus_is_reused(tiny_corpus):
    before = {path: path.stat().st_mtime_ns for path in tiny_corpus.rglob("*")}
    assert corpus.build_corpus(tiny_corpus, TINY).was_reused
    assert {path: path.stat().st_mtime_ns for path in tiny_corpus.rglob("*")} == before


def test_other_options_are_refused_with_the_fix(tiny_corpus):
    with pytest.raises(UserError, match=r"seed 3 \(not 9\).*delete it, name another folder"):
        corpus.build_corpus(tiny_corpus, CorpusOptions(**{**vars(TINY), "seed": 9}))


def test_a_folder_of_the_users_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a demo corpus"):
        corpus.build_corpus(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@needs_espeak
def test_an_interrupted_corpus_is_made_anew(tiny_corpus, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_write_annotations", interrupt)
        with pytest.raises(KeyboardInterrupt):
            corpus.build_corpus(tmp_path / "demo", TINY)
    assert not (tmp_path / "demo").exists()
    corpus.build_corpus(tmp_path / "demo", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]  # nothing half-made stays
    assert hash_files(tmp_path / "demo") == hash_files(tiny_corpus)


@needs_espeak
def test_an_error_in_a_process_reaches_the_caller(tmp_path):
    (tmp_path / "audio" / "speech").mkdir(parents=True)
    clip = replace(plan_speech(TINY)[0], voice=speech.Voice("en", "nobody"))
    with pytest.raises(UserError, match=r"no voice 'en\+nobody'"):
        render_clips([clip], [], tmp_path, seed=0, num_processes=1, report=print)


def test_a_process_that_dies_is_noticed(tmp_path):
    clips = plan_scenes(TINY)[:1]  # their folder does not exist
    with pytest.raises(RuntimeError, match="died with exit code 1"):
        render_clips([], clips, tmp_path, seed=0, num_processes=1, report=print)


def test_work_ends_when_nobody_wants_it(tmp_path):
    shard = Shard(plan_scenes(TINY), first=0, seed=0, folder=tmp_path)
    assert render_shard(shard, is_wanted=lambda: False) == {}


# Speech


def test_splits_share_no_sentence_and_test_voices_are_new():
    clips = plan_speech(CorpusOptions())
    splits = ("train", "valid", "test")
    texts = {split: {c.text for c in clips if c.split == split} for split in splits}
    assert not texts["test"] & texts["train"]
    assert not texts["valid"] & texts["train"]
    assert not texts["valid"] & texts["test"]
    speakers = {
        split: {c.voice.speaker for c in clips if c.split == split} for split in ("train", "test")
    }
    assert speakers["test"] == set(speech.TEST_SPEAKERS)
    assert speakers["train"] == set(speech.TRAIN_SPEAKERS)
    assert not speakers["test"] & speakers["train"]


def test_vocabulary_is_small_and_all_of_it_is_trained():
    vocabulary = set(sentences.list_vocabulary())
    assert 60 <= len(vocabulary) <= 100
    assert all(word.isalpha() and word.islower() for word in vocabulary)
    clips = plan_speech(CorpusOptions())
    trained = [word for c in clips if c.split == "train" for word in c.text.split()]
    assert set(trained) == vocabulary
    assert min(trained.count(word) for word in vocabulary) >= 40


def test_sentences_have_two_to_seven_words():
    rng = np.random.default_rng(0)
    assert {len(sentences.draw_sentence(rng).split()) for _ in range(2000)} == {2, 3, 4, 5, 6, 7}
    assert {len(sentences.draw_sentence(rng, max_words=3).split()) for _ in range(200)} == {2, 3}


@needs_espeak
def test_every_voice_speaks_and_sounds_unlike_the_others():
    synthesizer = speech.Synthesizer(seed=0)
    heard = set()
    for voice in speech.list_voices(speech.TRAIN_SPEAKERS + speech.TEST_SPEAKERS):
        waveform = synthesizer.synthesize(
            "turn on the kitchen lamp at seven thirty", voice, words_per_minute=150, pitch=50
        )
        assert waveform.dtype == np.float32
        assert 1.5 < len(waveform) / speech.SAMPLE_RATE_HZ < 5, voice
        assert np.abs(waveform).max() > 0.02, voice
        assert np.mean(np.abs(waveform) > 0.999) < 1e-3, voice  # single peaks may clip
        heard.add(waveform.tobytes())
    assert len(heard) == len(speech.ACCENTS) * len(speech.TRAIN_SPEAKERS + speech.TEST_SPEAKERS)


@needs_espeak
@pytest.mark.parametrize("voice", [speech.Voice("en-us", "nobody"), speech.Voice("en-xx", "m1")])
def test_an_unknown_voice_is_an_error(voice):
    with pytest.raises(UserError, match="no voice"):
        speech.Synthesizer(seed=0).synthesize("one", voice, words_per_minute=160, pitch=50)


@needs_espeak
def test_a_long_installation_path_works(tmp_path, monkeypatch):
    library_path, data_dir = speech.find_espeak()
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(data_dir)
    monkeypatch.setattr(speech, "find_espeak", lambda: (library_path, deep / "espeak-ng-data"))
    waveform = speech.Synthesizer(seed=0).synthesize(
        "one", speech.Voice("en", "m1"), words_per_minute=160, pitch=50
    )
    assert np.abs(waveform).max() > 0.02


def test_missing_espeak_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="pip install espeakng-loader"):
        corpus.build_corpus(tmp_path / "demo", TINY)
    assert list(tmp_path.iterdir()) == []


def test_resample_keeps_a_tone():
    time = np.arange(22_050) / 22_050
    tone = np.sin(2 * np.pi * 440 * time) * np.hanning(len(time))
    expected_time = np.arange(16_000) / 16_000
    expected = np.sin(2 * np.pi * 440 * expected_time) * np.interp(
        expected_time, time, np.hanning(len(time))
    )
    resampled = speech.resample(tone.astype(np.float32), 22_050, 16_000)
    assert resampled.shape == (16_000,)
    np.testing.assert_allclose(resampled, expected, atol=1e-4)  # the window's edges


def test_trim_silence_keeps_the_margins():
    waveform = np.concatenate([np.zeros(8000), np.full(1600, 0.5), np.zeros(8000)])
    assert len(trim_silence(waveform, (0.05, 0.1))) == 800 + 1600 + 1600


# Sound scenes


def test_splits_share_no_scene_of_several_events():
    clips = plan_scenes(CorpusOptions())
    scenes = {
        split: {c.scene for c in clips if c.split == split and c.scene.layout != "single"}
        for split in ("train", "valid", "test")
    }
    assert len(scenes["test"]) > 60
    assert not scenes["test"] & (scenes["train"] | scenes["valid"])
    assert not scenes["valid"] & scenes["train"]


def test_every_event_kind_occurs_in_every_layout_and_split():
    assert len(EVENT_KINDS) >= 12
    clips = plan_scenes(CorpusOptions())
    for split in ("train", "test"):
        kinds = {kind for c in clips if c.split == split for kind in c.scene.kinds}
        assert kinds == set(EVENT_KINDS)
    backdrops = {name for name, kind in EVENT_KINDS.items() if kind.is_backdrop}
    for layout in LAYOUTS:
        scenes = [c.scene for c in clips if c.scene.layout == layout]
        assert {len(scene.kinds) for scene in scenes} == {len(set(scenes[0].kinds))}
        if layout == "backdrop":
            assert {scene.kinds[-1] for scene in scenes} == backdrops


@pytest.mark.parametrize("layout", LAYOUTS)
def test_references_name_every_event_and_are_distinct(layout):
    rng = np.random.default_rng(1)
    for _ in range(50):
        scene = draw_scene(rng, layout=layout)
        captions = write_captions(scene)
        assert 3 <= len(set(captions)) == len(captions) <= 5
        for caption in captions:
            assert caption.replace(" ", "").isalpha()
            assert caption.islower()
            for name in scene.kinds:
                kind = EVENT_KINDS[name]
                assert kind.subject in caption
                assert kind.verb in caption or kind.participle in caption


def test_captions_of_a_pair():
    assert write_captions(Scene("pair", ("dog", "bell"))) == [
        "a dog barks and then a bell tolls",
        "a dog barks before a bell tolls",
        "a bell tolls after a dog barks",
        "first a dog barks and then a bell tolls",
        "a dog barking followed by a bell tolling",
    ]


@pytest.mark.parametrize("name", EVENT_KINDS)
def test_events_of_one_kind_vary_in_level_length_and_sound(name):
    waveforms = [
        render_scene(Scene("single", (name,)), np.random.default_rng([7, number]))
        for number in range(6)
    ]
    assert len({len(waveform) for waveform in waveforms}) > 3
    levels_db = [20 * np.log10(np.sqrt(np.mean(waveform**2))) for waveform in waveforms]
    assert max(levels_db) - min(levels_db) > 3
    spectra = [np.abs(np.fft.rfft(waveform, 16_000)) for waveform in waveforms]
    shapes = [spectrum / np.linalg.norm(spectrum) for spectrum in spectra]
    likeness = [float(shapes[0] @ shape) for shape in shapes[1:]]
    assert min(likeness) < 0.98


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scenes_last_two_to_five_seconds(layout):
    rng = np.random.default_rng(5)
    for _ in range(20):
        waveform = render_scene(draw_scene(rng, layout=layout), rng)
        assert waveform.dtype == np.float32
        assert 1.7 <= len(waveform) / 16_000 <= 5.2
        assert np.abs(waveform).max() <= 0.9501


# The command


def run_command(*arguments: str) -> subprocess.CompletedProcess:
    package_dir = Path(corpus.__file__).resolve().parents[3]
    return subprocess.run(
        [sys.executable, "-m", "audiolm.data", *arguments],
        capture_output=True,
        text=True,
        cwd=package_dir,
        check=False,
    )


def test_help_does_not_import_numpy():
    package_dir = Path(corpus.__file__).resolve().parents[3]
    code = "import sys, audiolm.data.__main__; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=package_dir, check=True)
    done = run_command("make-demo", "--help")
    assert done.returncode == 0
    assert "--num-speech" in done.stdout


def test_options_of_the_command_are_those_of_the_corpus(tiny_corpus):
    arguments = [
        part
        for name, value in vars(TINY).items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    done = run_command("make-demo", "-o", str(tiny_corpus), *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("found the demo corpus")


def test_the_commands_defaults_are_the_options_defaults():
    from audiolm.data.commands.making_demo import COUNTS

    defaults = {name.replace("-", "_"): default for name, (default, _) in COUNTS.items()}
    assert {**defaults, "seed": 0} == vars(CorpusOptions())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num-speech", "9"), "num_speech is 9: it must be at least 10"),
        (("--seed", "-1"), "seed is -1: it must be at least 0"),
        (("--num-test-speech", "5000"), "at most 600"),
        (("--num-processes", "0"), "num_processes is 0"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(tmp_path, arguments, message):
    done = run_command("make-demo", "-o", str(tmp_path / "demo"), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_speech_clips_carry_one_text():
    clip = plan_speech(TINY)[0]
    assert isinstance(clip, SpeechClip)
    assert clip.texts == [clip.text]
