"""Shards: the same clips in the same order as files, readable by webdataset, cut ones named."""

import io
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import webdataset

from audiolm.audio.loading import AudioError
from audiolm.data.__main__ import main
from audiolm.data.annotations import load_annotation
from audiolm.data.batches import build_loader, clip_seconds
from audiolm.data.dataset import AudioDataset, ClipError, SkippedClip
from audiolm.data.entries import iterate_entries
from audiolm.data.sampler import EvaluationBatchSampler, StepBatchSampler
from audiolm.data.shard_reading import ShardStore, check_shards
from audiolm.errors import UserError
from tests.corpora import copy_audio, write_audio, write_entries


def no_log_mel(samples: np.ndarray) -> torch.Tensor:
    return torch.full((4, 3000), float(samples.shape[0]))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """An annotation of whole files in several formats, parts of a file, and joined files."""
    rows: list[dict[str, Any]] = []
    for seed, suffix in enumerate(["wav", "flac", "mp3", "ogg", "opus", "wav", "wav"]):
        name = f"audio/{seed}.{suffix}"
        write_audio(tmp_path / name, 1.0 + 0.2 * seed, seed=seed)
        rows.append({"path": name, "text": f"text {seed}", "task": "asr", "note": {"n": seed}})
    write_audio(tmp_path / "audio/long.wav", 40.0, seed=20)
    rows.append({"path": "audio/long.wav", "text": ["a", "b"], "offset": 33.5, "duration": 2.25})
    rows.append({"path": "audio/long.wav", "text": "whole", "task": "audiocaption_v2"})
    rows.append({"path": "audio/0.wav", "text": "joined", "expand_wav": ["audio/1.flac"]})
    return write_entries(tmp_path / "files.json", rows)


@pytest.fixture
def shards(files: Path, tmp_path: Path) -> Path:
    """The same as shards of at most three clips."""
    arguments = ["shard", str(files), "--prefix", str(tmp_path), "-o", str(tmp_path / "shards")]
    assert main([*arguments, "--max-clips", "3", "--num-processes", "1"]) == 0
    return tmp_path / "shards"


def load_items(annotation: Path, prefix: Path, **options: Any) -> list[Any]:
    dataset = AudioDataset(load_annotation(annotation), prefix, no_log_mel, **options)
    return [dataset[index] for index in range(len(dataset))]


def test_every_clip_is_the_same_as_from_its_file(files: Path, shards: Path, tmp_path: Path) -> None:
    expected = load_items(files, tmp_path)
    found = load_items(shards / "annotation.jsonl", shards)
    assert len(found) == len(expected) == 10
    for ours, theirs in zip(found, expected, strict=True):
        for key in ("references", "task", "Q", "was_truncated", "index"):
            assert ours[key] == theirs[key]
        # A part of a file and joined files are written anew, rounded to 16 or 24 bits.
        torch.testing.assert_close(ours["raw_wav"], theirs["raw_wav"], atol=2e-7, rtol=0)
    rows = list(iterate_entries(shards / "annotation.jsonl"))
    assert rows[0]["note"] == {"n": 0}
    assert not any("offset" in row or "expand_wav" in row for row in rows)
    assert rows[7]["duration"] == 2.25


def test_webdataset_reads_them(shards: Path, files: Path) -> None:
    listed = json.loads((shards / "shards.json").read_text())["shardlist"]
    assert [(shard["url"], shard["nsamples"]) for shard in listed] == [
        ("shard-000000.tar", 3), ("shard-000001.tar", 3), ("shard-000002.tar", 3),
        ("shard-000003.tar", 1),
    ]  # fmt: skip
    assert all((shards / shard["url"]).stat().st_size == shard["filesize"] for shard in listed)
    urls = [str(shards / shard["url"]) for shard in listed]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))  # type: ignore[attr-defined]
    rows = list(iterate_entries(files))
    assert [json.loads(sample["json"])["text"] for sample in samples] == [
        row["text"] for row in rows
    ]
    assert samples[0]["wav"] == (files.parent / "audio/0.wav").read_bytes()
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(10)]
    assert soundfile.info(io.BytesIO(samples[7]["flac"])).frames == 36_000


def test_shards_are_the_same_bytes_however_made(files: Path, shards: Path, tmp_path: Path) -> None:
    arguments = ["shard", str(files), "--prefix", str(tmp_path), "-o", str(tmp_path / "again")]
    assert main([*arguments, "--max-clips", "3", "--num-processes", "2"]) == 0
    names = sorted(path.name for path in shards.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (shards / name).read_bytes()


def test_training_order_and_resume_are_those_of_the_files(
    files: Path, shards: Path, tmp_path: Path
) -> None:
    def list_order(annotation: Path, prefix: Path, start: int = 0) -> list[list[int]]:
        clips = load_annotation(annotation)
        dataset = AudioDataset(clips, prefix, no_log_mel)
        sampler = StepBatchSampler(clip_seconds(clips, prefix), step_size=2, seed=3)
        loader = build_loader(dataset, sampler, num_workers=2)
        order = []
        for epoch in range(2):
            dataset.set_epoch(epoch)
            sampler.set_epoch(epoch)
            sampler.set_start(start)
            order += [batch["index"] for batch in loader]
        return order

    ours = list_order(shards / "annotation.jsonl", shards)
    assert ours == list_order(files, tmp_path)
    assert ours[:5] != ours[5:]  # each epoch has its own
    resumed = list_order(shards / "annotation.jsonl", shards, start=3)
    assert resumed == ours[3:5] + ours[8:]


@pytest.mark.parametrize("num_bytes", [0, 700, 3000])
def test_a_shard_cut_short_is_named(
    num_bytes: int, shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = shards / "shard-000001.tar"
    cut.write_bytes(cut.read_bytes()[:num_bytes])
    annotation = shards / "annotation.jsonl"
    with pytest.raises(ClipError, match=r"shard-000001.tar: the shard is cut short: .*bad_audio"):
        load_items(annotation, shards)
    items = load_items(annotation, shards, bad_audio="skip")
    skipped = [item for item in items if isinstance(item, SkippedClip)]
    assert [item.index for item in skipped] == [3, 4, 5]
    assert all("shard-000001.tar" in item.reason for item in skipped)
    clips = load_annotation(annotation)
    with pytest.raises(UserError, match="1 shards are missing or cut short; first: shard-000001"):
        check_shards(ShardStore(shards), clips, skips_bad=False)
    with caplog.at_level("WARNING"):
        check_shards(ShardStore(shards), clips, skips_bad=True)
    assert "their clips are left out" in caplog.text
    (problem,) = ShardStore(shards).check(clips)
    assert problem.path == "shard-000001.tar"
    (shards / "shard-000000.tar").unlink()
    problems = ShardStore(shards).check(load_annotation(annotation))
    assert [problem.problem for problem in problems] == ["missing", "unreadable"]


def test_check_and_leaks_read_shards(shards: Path, files: Path, tmp_path: Path) -> None:
    annotation = str(shards / "annotation.jsonl")
    assert main(["check", annotation, "--prefix", str(shards), "--num-processes", "1"]) == 0
    by_audio = ["--by", "audio", "--num-processes", "1"]
    arguments = ["leaks", annotation, str(files), "--prefix", str(shards)]
    assert main([*arguments, "--prefix-b", str(tmp_path), *by_audio]) == 1


def test_from_a_pipe_each_shard_comes_once(shards: Path, files: Path, tmp_path: Path) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    url = f"pipe:echo {{shard}} >> {log}; cat {shards}/{{shard}}"
    store = ShardStore("nowhere", url, cache)
    clips = load_annotation(shards / "annotation.jsonl")
    dataset = AudioDataset(clips, "nowhere", no_log_mel, shards=store)
    sampler = EvaluationBatchSampler([1.0] * 10, 1)
    loader = build_loader(dataset, sampler, num_workers=2)
    batches = {batch["index"][0]: batch["raw_wav"][0] for batch in loader}
    for item in load_items(shards / "annotation.jsonl", shards):
        assert torch.equal(batches[item["index"]], item["raw_wav"])
    assert sorted(log.read_text().split()) == [f"shard-{i:06d}.tar" for i in range(4)]
    assert not list(cache.glob(".*partial"))


def test_a_pipe_that_fails_leaves_nothing(shards: Path, tmp_path: Path) -> None:
    stored = load_annotation(shards / "annotation.jsonl")[0].stored
    assert stored is not None
    for command in (
        f"cat {shards}/no-{{shard}} 2>/dev/null",
        f"head -c 700 {shards}/{{shard}}; false",
    ):
        store = ShardStore(tmp_path, f"pipe:{command}", tmp_path / "cache")
        with pytest.raises(AudioError, match="shard-000000.tar: the shard cannot be fetched"):
            store.read(stored)
    assert not list((tmp_path / "cache").glob("*.tar"))
    short = ShardStore(tmp_path, f"pipe:head -c 700 {shards}/{{shard}}", tmp_path / "cache")
    with pytest.raises(AudioError, match="the shard is cut short: 700 bytes"):
        short.read(stored)


@pytest.mark.parametrize(
    ("url", "cache", "message"),
    [("pipe:cat x", "c", "does not say where {shard} goes"), ("pipe:{shard}", "", "shard_cache")],
)
def test_wrong_sources(url: str, cache: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ShardStore("x", url, cache)


def read_first(store: ShardStore, stored: Any, queue: Any) -> None:
    queue.put(store.read(stored))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_goes_to_other_processes(method: str, shards: Path) -> None:
    store = ShardStore(shards)
    stored = load_annotation(shards / "annotation.jsonl")[0].stored
    assert stored is not None
    expected = store.read(stored)  # its file is open now
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=read_first, args=(store, stored, queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()
    assert store.read(stored) == expected


def test_more_shards_than_may_be_open(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiolm.data.shard_reading.MAX_OPEN_SHARDS", 2)
    assert len(load_items(shards / "annotation.jsonl", shards)) == 10


def test_bad_clips_stop_or_are_left_out(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "audio/3.ogg").write_text("broken")
    out = tmp_path / "out"
    arguments = ["shard", str(files), "--prefix", str(tmp_path), "-o", str(out)]
    arguments += ["--num-processes", "1"]
    with pytest.raises(UserError, match=r"1 clips cannot be used; first: annotation\[3\] .*ogg"):
        main(arguments)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))
    assert main([*arguments, "--skip-bad"]) == 0
    assert (
        "left out: 1 clips; first: annotation[3] (audio/3.ogg): cannot" in capsys.readouterr().out
    )
    assert len(load_items(out / "annotation.jsonl", out)) == 9
    with pytest.raises(UserError, match="out exists"):
        main(arguments)


def test_parts_of_16_bit_files_stay_exact(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 5.0)
    copy_audio(tmp_path / "a.wav", tmp_path / "b.flac")
    path = write_entries(tmp_path / "x.json", [{"path": "b.flac", "offset": 1.0, "duration": 2.0}])
    out = tmp_path / "out"
    arguments = ["shard", str(path), "--prefix", str(tmp_path), "-o", str(out)]
    assert main([*arguments, "--num-processes", "1"]) == 0
    (item,) = load_items(out / "annotation.jsonl", out)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert torch.equal(item["raw_wav"], torch.from_numpy(samples[16_000:48_000]))


def test_two_sets_side_by_side_have_one_prefix(files: Path, tmp_path: Path) -> None:
    base = tmp_path / "both"
    for name in ("train", "valid"):
        arguments = ["shard", str(files), "--prefix", str(tmp_path), "-o", str(base / name)]
        assert main([*arguments, "--base", str(base), "--num-processes", "1"]) == 0
        row = next(iterate_entries(base / name / "annotation.jsonl"))
        assert row["shard"] == f"{name}/shard-000000.tar"
        assert len(load_items(base / name / "annotation.jsonl", base)) == 10
    with pytest.raises(UserError, match="other is not below .*both"):
        main([*arguments[:-1], str(tmp_path / "other"), "--base", str(base)])


@pytest.mark.parametrize(
    "row",
    [
        {"path": "a", "shard": "x.tar"},
        {"path": "a", "shard": "", "shard_offset": 0, "shard_bytes": 1},
        {"path": "a", "shard": "x.tar", "shard_offset": -1, "shard_bytes": 1},
        {"path": "a", "shard": "x.tar", "shard_offset": 0, "shard_bytes": True},
    ],
)
def test_wrong_places_are_refused(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match='"shard" needs a path, "shard_offset" and "shard_bytes"'):
        load_annotation(write_entries(tmp_path / "x.json", [row]))
