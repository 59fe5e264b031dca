"""The feature cache: what is stored, when it counts, and that training with it is the same."""

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import soundfile
import torch
import train as train_script
from accelerate import Accelerator
from training_runs import arguments, read_log, run_folders

from audiolm.config import Config
from audiolm.config_file import load_config
from audiolm.data import feature_shards
from audiolm.data.annotations import Clip, load_annotation
from audiolm.data.batches import collate
from audiolm.data.feature_cache import FeatureCache
from audiolm.errors import UserError
from audiolm.models.checkpoint import load_checkpoints, save_checkpoint, trainable_state
from audiolm.models.pretrained import find_weight_files
from audiolm.models.salmonn import SALMONN
from audiolm.training import features as features_module
from audiolm.training.data import build_dataset, load_log_mel
from audiolm.training.feature_encoder import ClipEncoder
from audiolm.training.features import ensure_features
from audiolm.training.optimiser import build_optimiser
from tests.golden import GOLDEN_DIR, Golden

ROOT = Path(__file__).resolve().parents[1]
DEV = GOLDEN_DIR / "dev"
# Clips are encoded one at a time and stored; matrix products of other sizes add in another order.
LOSS_ATOL = 1e-5
MODES = ["fixed-padded", "fixed-trimmed", "length_aware-padded", "length_aware-trimmed"]


@pytest.fixture
def config(dev: Golden, tmp_path: Path) -> Config:
    """The recorded stack, its audio copied to where tests may change it."""
    config = load_config(DEV / "config_lora.yaml")
    config.model.qformer = dataclasses.replace(dev.config.model.qformer, dropout=0.0)
    config.model.lora_dropout = 0.0
    config.datasets.prefix = str(shutil.copytree(DEV / "audio", tmp_path / "audio"))
    config.datasets.feature_cache = str(tmp_path / "features")
    config.run.num_workers = 0
    return config


def load_clips(config: Config) -> list[Clip]:
    return list(load_annotation(config.datasets.train_ann_path))


def ensure(config: Config, clips: list[Clip] | None = None, **arguments: Any) -> FeatureCache:
    arguments = {"dtype": torch.float32, "report": lambda line: None} | arguments
    clips = load_clips(config) if clips is None else clips
    cache = ensure_features(config, Accelerator(cpu=True), clips, **arguments)
    assert cache is not None
    return cache


def cache_folder(config: Config) -> Path:
    (folder,) = (path for path in Path(config.datasets.feature_cache).iterdir() if path.is_dir())
    return folder


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the number of samples of each clip that is encoded from now on."""
    encoded: list[int] = []
    real = ClipEncoder.encode

    def encode(self: ClipEncoder, item: dict[str, Any]) -> dict[str, Any]:
        encoded.append(len(item["raw_wav"]))
        return real(self, item)

    monkeypatch.setattr(ClipEncoder, "encode", encode)
    return encoded


def load_batch(config: Config, rows: list[int], features: FeatureCache | None) -> dict[str, Any]:
    dataset = build_dataset(config, load_clips(config), load_log_mel(config))
    dataset.features = features
    return collate([dataset[row] for row in rows])


def train(config: Config, features: FeatureCache | None, batch_size: int) -> list[float]:
    """Losses of six optimiser steps over the annotation."""
    model = SALMONN.from_config(config.model, has_encoders=features is None).train()
    optims = dataclasses.replace(config.run.optims, init_lr=1e-3)
    optimiser = build_optimiser(model, optims)
    losses = []
    for step in range(6):
        rows = [(step * batch_size + place) % 5 for place in range(batch_size)]
        samples = load_batch(config, rows, features)
        optimiser.zero_grad()
        loss = model(samples, prompts=["USER: <SpeechHere>Write.\n"] * batch_size)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


# The same training


@pytest.mark.parametrize("mode", MODES)
def test_losses_are_those_without_the_cache(mode: str, config: Config) -> None:
    config.model.audio_tokens, config.model.whisper_input = mode.split("-")
    features = ensure(config)
    assert train(config, features, 1) == train(config, None, 1)  # bit for bit
    expected = train(config, None, 3)
    assert train(config, features, 3) == pytest.approx(expected, abs=LOSS_ATOL)
    assert expected[-1] < expected[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"beats_path": ""},
        {"window_level_Qformer": False, "audio_tokens": "length_aware"},
        {"use_speech_Qformer": False, "second_stride": 0.5},
    ],
    ids=["no_beats", "whole_clip", "no_qformer"],
)
def test_other_models(changes: dict[str, Any], config: Config) -> None:
    config.model = dataclasses.replace(config.model, ckpt="", **changes)
    features = ensure(config)
    losses = []
    for stored in (features, None):
        torch.manual_seed(0)  # new weights
        losses += train(config, stored, 1)[:1]
    assert losses[0] == losses[1]


def test_generation_from_stored_features(config: Config) -> None:
    """Validation while training decodes what the cache holds."""
    features = ensure(config)
    texts = []
    for stored in (features, None):
        model = SALMONN.from_config(config.model, has_encoders=stored is None)
        samples = load_batch(config, [0, 1], stored)
        options = {"max_new_tokens": 8, "num_beams": 1}
        texts.append(model.generate(samples, options, prompts=["<SpeechHere>Write."] * 2))
    assert texts[0] == texts[1]


def test_new_weights_are_those_without_the_cache(config: Config) -> None:
    """Neither filling nor checking a cache draws from torch's random numbers."""
    for _ in range(2):
        torch.manual_seed(3)
        state = torch.get_rng_state()
        ensure(config)
        assert torch.equal(torch.get_rng_state(), state)
    config.model.ckpt = ""
    models = []
    for has_encoders in (True, False):
        torch.manual_seed(3)
        models.append(SALMONN.from_config(config.model, has_encoders=has_encoders))
    states = [trainable_state(model) for model in models]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_checkpoints_fit_with_and_without_encoders(config: Config, tmp_path: Path) -> None:
    without = SALMONN.from_config(config.model, has_encoders=False)
    whole = SALMONN.from_config(config.model)
    assert trainable_state(without).keys() == trainable_state(whole).keys()
    for name, source, target in (("a", without, whole), ("b", whole, without)):
        with torch.no_grad():
            source.speech_llama_proj.weight.fill_(ord(name))
        path = tmp_path / f"{name}.pth"
        save_checkpoint(path, source)
        load_checkpoints(target, [path])
        assert (target.speech_llama_proj.weight == ord(name)).all()


def test_a_model_without_encoders_says_so(config: Config) -> None:
    model = SALMONN.from_config(config.model, has_encoders=False)
    assert model.speech_encoder is None
    assert model.beats is None
    with pytest.raises(UserError, match="built without encoders, to train from datasets.feature_"):
        model(load_batch(config, [0], None), prompts=["<SpeechHere>"])


def test_sizes_without_encoders_come_from_configurations(config: Config) -> None:
    whole = SALMONN.from_config(config.model)
    without = SALMONN.from_config(config.model, has_encoders=False)
    assert without.encoder_sizes == whole.encoder_sizes
    assert whole.speech_encoder is not None
    assert whole.beats is not None
    assert whole.encoder_sizes.speech_width == whole.speech_encoder.config.d_model
    assert whole.encoder_sizes.audio_width == whole.beats.embed_dim


def test_half_precision(config: Config) -> None:
    """Stored as computed; the loss is that of the half-precision encoders."""
    features = ensure(config, dtype=torch.bfloat16)
    losses = []
    for stored in (features, None):
        model = SALMONN.from_config(config.model, dtype=torch.bfloat16, has_encoders=stored is None)
        samples = load_batch(config, [0], stored)
        assert stored is None or samples["speech_frames"].dtype == torch.bfloat16
        with torch.no_grad():
            losses.append(model(samples, prompts=["<SpeechHere>Write."])["loss"].item())
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses.append(model(samples, prompts=["<SpeechHere>Write."])["loss"].item())
    assert losses[:2] == losses[2:]


# What is stored


def test_only_frames_that_count_are_stored(config: Config) -> None:
    """The 1.3 s clip: all 30 s, its own 65 frames, or 4 windows of 17."""
    for mode, expected in zip(MODES, (1500, 65, 68, 68), strict=True):
        config.model.audio_tokens, config.model.whisper_input = mode.split("-")
        item = ensure(config).load(load_clips(config)[0])
        assert len(item["speech_frames"]) == expected
        assert (
            len(item["audio_frames"]) == 64
        )  # 8 for each whole patch of 16 of its 128 fbank frames


def test_audio_that_entries_share_is_stored_once(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = count_encoded(monkeypatch)
    clips = load_clips(config)
    joined = dataclasses.replace(clips[0], index=7, expand_wav=(clips[4].path,))
    again = dataclasses.replace(clips[0], index=8, task="QA", texts=("other",))
    cache = ensure(config, [*clips, joined, again])
    assert len(encoded) == 6
    assert cache.load(joined)["num_samples"] > cache.load(clips[0])["num_samples"]
    assert torch.equal(cache.load(again)["speech_frames"], cache.load(clips[0])["speech_frames"])


def test_the_estimate_is_close(config: Config) -> None:
    lines: list[str] = []
    ensure(config, report=lines.append)
    stored = sum(path.stat().st_size for path in cache_folder(config).glob("*.bin"))
    assert lines[0].endswith("free)")
    assert "5 of 5 clips to encode" in lines[0]
    estimate = float(lines[0].split("about ")[1].split(" MiB")[0])
    assert estimate == pytest.approx(stored / 2**20, rel=0.02, abs=0.05)  # shown to 0.1 MiB
    assert "complete, 5 clips" in lines[1]


def test_too_little_room(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(ROOT))(10**9, 10**9 - 2**20, 2**20)
    monkeypatch.setattr(features_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"5 clips need about 2\.\d MiB, and .* has 1\.0 MiB free"):
        ensure(config)
    assert not list(cache_folder(config).glob("shard_*"))


def test_full_disk_while_writing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(file: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_shards, "_sync", sync)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device; what was fini"):
        ensure(config)
    monkeypatch.undo()
    ensure(config)


# When what is stored counts


def test_a_complete_cache_needs_no_encoders(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(config)
    encoded = count_encoded(monkeypatch)
    ensure(config)
    assert len(encoded) == 1  # the check
    config.datasets.feature_cache_check = False

    def refuse(*arguments: Any) -> None:
        raise AssertionError("encoders were loaded")

    monkeypatch.setattr(features_module, "ClipEncoder", refuse)
    ensure(config)


@pytest.mark.parametrize("damage", ["cut", "half_written", "no_index", "torn_index"])
def test_an_interrupted_build_goes_on(
    damage: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "MAX_SHARD_CLIPS", 2)
    ensure(config)
    folder = cache_folder(config)
    last = sorted(folder.glob("*.bin"))[1]
    index = last.with_suffix(".json")
    if damage == "cut":
        with last.open("r+b") as file:
            file.truncate(100)
    elif damage == "half_written":
        index.unlink()
        last.rename(last.with_name(last.name + ".tmp"))
    elif damage == "no_index":
        index.unlink()
    else:
        index.write_text(index.read_text()[:50])
    others = [path for path in folder.glob("shard_*") if not path.name.startswith(last.stem)]
    kept = {path: path.stat().st_mtime_ns for path in others}
    encoded = count_encoded(monkeypatch)
    config.datasets.feature_cache_check = False
    cache = ensure(config)
    assert len(encoded) == 2  # the shard's clips, nothing else
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert not list(folder.glob("*.tmp"))
    assert all(len(cache.load(clip)["speech_frames"]) == 1500 for clip in load_clips(config))


def test_a_killed_build_goes_on(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "MAX_SHARD_CLIPS", 2)

    class Killed(BaseException):
        """Stands for a kill: nothing catches it."""

    with monkeypatch.context() as patch:
        encoded = count_encoded(patch)
        real = ClipEncoder.encode

        def encode(self: ClipEncoder, item: dict[str, Any]) -> dict[str, Any]:
            if len(encoded) == 3:
                raise Killed
            return real(self, item)

        patch.setattr(ClipEncoder, "encode", encode)
        with pytest.raises(Killed):
            ensure(config)
    encoded = count_encoded(monkeypatch)
    config.datasets.feature_cache_check = False
    ensure(config)
    assert len(encoded) == 3  # the first shard of two was complete


def change_audio(config: Config) -> None:
    path = Path(config.datasets.prefix) / load_clips(config)[0].path.lstrip("/")
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)


def touch_weights(config: Config) -> None:
    """Other Whisper weights under the same path."""
    folder = Path(config.datasets.prefix).parent / "whisper"
    shutil.copytree(config.model.whisper_path, folder)
    config.model.whisper_path = config.datasets.whisper_path = str(folder)
    ensure(config)  # the same content: nothing new
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = {name: tensor + 0.01 for name, tensor in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "num_encoded"),
    [
        (lambda config: None, 0),
        (change_audio, 1),
        (touch_weights, 5),
        (lambda config: setattr(config.model, "whisper_input", "trimmed"), 5),
        (lambda config: setattr(config.model, "audio_tokens", "length_aware"), 5),
        (lambda config: setattr(config.model, "beats_path", ""), 5),
        (lambda config: setattr(config.datasets, "long_audio", "skip"), 5),
        (lambda config: setattr(config.model, "second_stride", 0.5), 0),  # all frames are stored
        (lambda config: setattr(config.model, "attn_implementation", "eager"), 0),
    ],
    ids=["none", "audio", "weights", "trimmed", "aware", "beats", "long", "stride", "attention"],
)
def test_what_makes_stored_outputs_stale(
    change: Callable[[Config], None],
    num_encoded: int,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config.datasets.feature_cache_check = False
    ensure(config)
    encoded = count_encoded(monkeypatch)
    change(config)
    cache = ensure(config)
    assert len(encoded) == num_encoded
    expected = ClipEncoder(config.model, torch.device("cpu"), torch.float32)
    dataset = build_dataset(config, load_clips(config), load_log_mel(config))
    for clip in load_clips(config):
        live = expected.encode(dataset.read_audio(clip))
        torch.testing.assert_close(
            cache.load(clip)["speech_frames"], live["speech_frames"], atol=1e-5, rtol=0
        )


def test_half_precision_is_stored_apart(config: Config) -> None:
    ensure(config)
    ensure(config, dtype=torch.bfloat16)
    assert len([p for p in Path(config.datasets.feature_cache).iterdir() if p.is_dir()]) == 2


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_stored_outputs_are_compared_with_the_encoders(value: float, config: Config) -> None:
    clips = load_clips(config)[:1]
    ensure(config, clips)
    (path,) = cache_folder(config).glob("*.bin")
    mapped = np.memmap(path, np.float32, "r+")
    mapped[1000:2000] += np.float32(value)
    mapped.flush()
    with pytest.raises(UserError, match=r"annotation\[0\] .* differs from what the encoders give"):
        ensure(config, clips)
    config.datasets.feature_cache_check = False
    ensure(config, clips)


def test_a_run_waits_for_another_that_fills_the_folder(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_shards, "LOCK_SECONDS", 0.0)
    ensure(config)
    with (cache_folder(config) / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is filling"):
            ensure(config)
    ensure(config)


def test_weight_files_are_those_that_transformers_reads(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEV / "components" / "whisper", tmp_path / "whisper"))

    def find() -> list[str]:
        return [path.name for path in find_weight_files(str(folder), "model.whisper_path")]

    (folder / "pytorch_model.bin").write_bytes(b"not read")
    assert find() == ["config.json", "model.safetensors"]
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    shutil.copy(folder / "model-1.safetensors", folder / "model-2.safetensors")
    numbers = zip("abc", "121", strict=True)
    weight_map = {name: f"model-{number}.safetensors" for name, number in numbers}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert find() == ["config.json", index.name, "model-1.safetensors", "model-2.safetensors"]
    index.unlink()
    assert find() == ["config.json", "pytorch_model.bin"]
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="model.whisper_path: .* holds none of model.safetensors"):
        find()


# Bad audio, and options


def break_clip(config: Config, row: int, kind: str) -> None:
    path = Path(config.datasets.prefix) / load_clips(config)[row].path.lstrip("/")
    if kind == "long":
        soundfile.write(path, np.zeros(31 * 8000), 8000, format="WAV")
    elif kind == "missing":
        path.unlink()
    else:
        path.write_bytes(b"no audio")


@pytest.mark.parametrize("kind", ["unreadable", "missing", "long"])
def test_bad_audio_follows_the_policy(
    kind: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = "long_audio" if kind == "long" else "bad_audio"
    break_clip(config, 1, kind)
    setattr(config.datasets, option, "error")
    with pytest.raises(UserError, match=rf"annotation\[1\] .*datasets.{option}: skip leaves"):
        ensure(config)
    setattr(config.datasets, option, "skip")
    lines: list[str] = []
    cache = ensure(config, report=lines.append)
    assert "1 of them without usable audio" in lines[-1]
    batch = load_batch(config, [0, 1, 2], cache)
    assert batch["index"] == [0, 2]
    (skipped,) = batch["skipped"]
    fresh = load_batch(config, [1], None)["skipped"]
    assert [skipped] == fresh  # the same words
    encoded = count_encoded(monkeypatch)
    setattr(config.datasets, option, "error")
    with pytest.raises(UserError, match=rf"annotation\[1\] .*datasets.{option}: skip leaves"):
        ensure(config)  # remembered
    assert len(encoded) == 1  # the check


def test_repaired_audio_is_encoded(config: Config) -> None:
    config.datasets.bad_audio = "skip"
    path = Path(config.datasets.prefix) / load_clips(config)[1].path.lstrip("/")
    content = path.read_bytes()
    break_clip(config, 1, "missing")
    cache = ensure(config)
    assert cache.has_problem(load_clips(config)[1])
    path.write_bytes(content)
    cache = ensure(config)
    assert not cache.has_problem(load_clips(config)[1])


@pytest.mark.parametrize(
    ("section", "option", "value", "message"),
    [
        ("model", "freeze_whisper", False, "model.freeze_whisper is false"),
        ("model", "freeze_beats", False, "model.freeze_beats is false"),
        ("augment", "speed", [0.9, 1.1], "datasets.augment changes the audio"),
    ],
)
def test_options_that_rule_a_cache_out(
    section: str, option: str, value: Any, message: str, config: Config
) -> None:
    holder = config.model if section == "model" else config.datasets.augment
    setattr(holder, option, value)
    with pytest.raises(UserError, match=message):
        ensure(config)
    assert not Path(config.datasets.feature_cache).exists()


def test_a_checkpoint_with_encoder_weights(config: Config, tmp_path: Path) -> None:
    trained = dataclasses.replace(config.model, freeze_whisper=False)
    path = tmp_path / "whisper.pth"
    save_checkpoint(path, SALMONN.from_config(trained))
    config.model.ckpt = str(path)
    with pytest.raises(UserError, match="holds encoder weights of its own"):
        ensure(config)


def test_a_folder_that_cannot_be_written(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config.datasets.feature_cache = str(tmp_path / "file")
    with pytest.raises(UserError, match="datasets.feature_cache: cannot write to"):
        ensure(config)


def test_no_cache(config: Config) -> None:
    config.datasets.feature_cache = ""
    accelerator = Accelerator(cpu=True)
    result = ensure_features(config, accelerator, [], dtype=torch.float32, report=print)
    assert result is None


def test_training_from_the_cache_gives_the_losses_of_training_from_audio(tmp_path: Path) -> None:
    """Whole runs of train.py; the second and third read what the second stored."""
    losses = []
    folder = tmp_path / "cache"
    for name, changes in (
        ("audio", ()),
        ("filled", (f"datasets.feature_cache={folder}",)),
        ("stored", (f"datasets.feature_cache={folder}",)),
    ):
        train_script.main(arguments(tmp_path / name, "run.iters_per_epoch=4", *changes))
        (run_folder,) = run_folders(tmp_path / name)
        losses.append([r["loss"] for r in read_log(run_folder) if r["event"] in ("train", "valid")])
    assert len(losses[0]) >= 4
    # Encoded in batches or one by one: float32 rounds differently.
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == losses[1]


# Several processes


def fill_share(arguments: Sequence[str]) -> int:
    """In a process of its own, with a shard per clip: encode, and write how many and their sum."""
    encoded: list[int] = []
    real = ClipEncoder.encode

    def encode(self: ClipEncoder, item: dict[str, Any]) -> dict[str, torch.Tensor]:
        encoded.append(1)
        return real(self, item)

    ClipEncoder.encode = encode  # type: ignore[method-assign]
    features_module.MAX_SHARD_CLIPS = 1
    config = load_config(arguments[0], arguments[1:])
    clips = load_clips(config)
    accelerator = Accelerator(cpu=True)
    cache = features_module.ensure_features(
        config, accelerator, clips, dtype=torch.float32, report=lambda line: None
    )
    assert cache is not None
    with open(f"rank{accelerator.process_index}.json", "w") as file:
        json.dump([len(encoded), sum_features(cache, clips)], file)
    accelerator.end_training()
    return 0


def sum_features(cache: FeatureCache, clips: Sequence[Clip]) -> float:
    return sum(cache.load(clip)["speech_frames"].double().sum().item() for clip in clips)


def run_two(config: Config, tmp_path: Path) -> processes.Outcome:
    changes = [
        f"datasets.{name}={getattr(config.datasets, name)}"
        for name in ("prefix", "feature_cache", "bad_audio")
    ]
    command = [str(DEV / "config_lora.yaml"), *changes, "run.num_workers=1"]
    return processes.run(fill_share, command, tmp_path, num_processes=2)


@pytest.mark.slow
def test_two_processes_share_the_work(config: Config, tmp_path: Path) -> None:
    config.datasets.bad_audio = "skip"
    result = run_two(config, tmp_path)
    assert result.statuses == (0, 0), result.stderr[-2000:]
    (first, total), (second, other_total) = (
        json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)
    )
    assert (first, second) == (3, 2)
    clips = load_clips(config)
    alone = ensure(config)  # checks a sample, too
    assert total == other_total
    assert total == sum_features(alone, clips)


@pytest.mark.slow
def test_bad_audio_stops_all_processes(config: Config, tmp_path: Path) -> None:
    break_clip(config, 3, "unreadable")
    result = run_two(config, tmp_path)
    assert result.statuses == (2, 2)
    assert result.stderr.count("error: annotation[3]") == 2  # one line from each process
    assert "Traceback" not in result.stderr.split("error: annotation[3]")[0]
