"""Several annotations in one training set: how often each clip comes, exactly."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.data import annotations
from audiolm.data.clips import collect_tasks, group_by_task, load_seconds
from audiolm.data.mixture import Mixture, MixturePart, describe_mixture, load_mixture
from audiolm.data.sampler import StepBatchSampler
from audiolm.errors import UserError


def write_annotation(path: Path, tasks: dict[str, int]) -> str:
    """An annotation with this many clips of each task, the tasks mixed; returns its path."""
    rows = [
        {"path": f"{path.stem}_{task}_{i}.wav", "text": "x", "task": task}
        for task, count in tasks.items()
        for i in range(count)
    ]
    rows = rows[::2] + rows[1::2]
    path.write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    return str(path)


def count_epochs(mixture: Mixture, epochs: range) -> Counter[str]:
    """How often each clip comes in some epochs, all together."""
    counts: Counter[str] = Counter()
    for epoch in epochs:
        counts.update(mixture.clips[position].path for position in mixture.positions(epoch))
    return counts


def test_one_annotation_is_as_it_is(tmp_path: Path) -> None:
    """Positions, messages and draws of a plain run do not know of mixtures."""
    path = write_annotation(tmp_path / "a.json", {"asr": 5, "QA": 4})
    mixture = load_mixture([(path, 1.0)], seed=3)
    assert [clip.index for clip in mixture.clips] == list(range(9))
    assert {clip.place for clip in mixture.clips[:1]} == {"annotation[0] (a_asr_0.wav)"}
    for epoch in range(3):
        assert mixture.positions(epoch).tolist() == list(range(9))


def test_weights_are_exact_over_epochs(tmp_path: Path) -> None:
    corpora = {"once": 1.0, "twice": 2.0, "half": 0.5, "often": 1.25, "seldom": 0.3}
    listed = [
        (write_annotation(tmp_path / f"{name}.json", {"asr": 7}), weight)
        for name, weight in corpora.items()
    ]
    mixture = load_mixture(listed, seed=0)
    for name, weight in corpora.items():
        counts = count_epochs(mixture, range(20))
        assert {counts[f"{name}_asr_{i}.wav"] for i in range(7)} == {round(20 * weight)}
    for epoch in range(20):
        counts = count_epochs(mixture, range(epoch, epoch + 1))
        for name, weight in corpora.items():
            per_clip = {counts[f"{name}_asr_{i}.wav"] for i in range(7)}
            assert per_clip <= {int(weight), int(np.ceil(weight))}
    halves = [count_epochs(mixture, range(2 * e, 2 * e + 2)) for e in range(5)]
    assert all(half[f"half_asr_{i}.wav"] == 1 for half in halves for i in range(7))


@settings(deadline=None)
@given(st.integers(1, 30), st.floats(0.05, 4.0), st.integers(0, 50))
def test_a_part_goes_round(num_clips: int, weight: float, epoch: int) -> None:
    part = MixturePart("a", "asr", np.random.default_rng(0).permutation(num_clips), 100, weight)
    drawn = [part.positions(e) for e in range(epoch + 1)]
    assert all(len(set(positions)) == len(positions) for positions in drawn)
    assert {int(p) for p in np.concatenate(drawn)} <= {
        *range(num_clips),
        *range(100, 100 + num_clips * part.num_copies),
    }
    all_drawn = np.concatenate(drawn)
    clips = np.where(all_drawn < 100, all_drawn, part.order[(all_drawn - 100) % num_clips])
    counts = np.bincount(clips, minlength=num_clips)
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == pytest.approx((epoch + 1) * num_clips * weight, abs=0.51)


def test_positions_are_unique_and_copies_are_of_the_same_clip(tmp_path: Path) -> None:
    paths = [write_annotation(tmp_path / f"{name}.json", {"asr": 3, "QA": 2}) for name in "ab"]
    mixture = load_mixture([(paths[0], 2.0), (paths[1], 1.5)], seed=0)
    for epoch in range(4):
        positions = mixture.positions(epoch)
        assert len(set(positions.tolist())) == len(positions)
        assert positions.max() < len(mixture.clips)
    assert [clip.source for clip in mixture.clips[:10]] == [paths[0]] * 5 + [paths[1]] * 5
    assert mixture.clips[7].place.startswith(f"{paths[1]}: annotation[2] (")


def test_rotation_depends_on_the_seed(tmp_path: Path) -> None:
    listed = [(write_annotation(tmp_path / "a.json", {"asr": 40}), 0.5)]
    first, again, other = (load_mixture(listed, seed=seed) for seed in (1, 1, 2))
    assert first.positions(0).tolist() == again.positions(0).tolist()
    assert first.positions(0).tolist() != other.positions(0).tolist()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0, 0.5])
def test_temperature_sets_the_tasks_shares(temperature: float, tmp_path: Path) -> None:
    a = write_annotation(tmp_path / "a.json", {"asr": 150, "QA": 100})
    b = write_annotation(tmp_path / "b.json", {"asr": 125, "audiocaption": 25})
    mixture = load_mixture([(a, 1.0), (b, 1.0)], seed=0, task_temperature=temperature)
    powers = {
        task: count ** (1 / temperature)
        for task, count in {"asr": 275, "QA": 100, "audiocaption": 25}.items()
    }
    wanted = {task: 400 * power / sum(powers.values()) for task, power in powers.items()}
    found: Counter[str] = Counter()
    for epoch in range(10):
        positions = mixture.positions(epoch)
        assert len(positions) == pytest.approx(400, abs=4)  # four parts, each rounded
        found.update(mixture.clips[position].task for position in positions)
        for task in wanted:  # up to two parts, each off by less than half a clip
            assert found[task] == pytest.approx((epoch + 1) * wanted[task], abs=1.01)


def test_temperature_counts_weighted_clips(tmp_path: Path) -> None:
    """Two annotations made equally big by their weights stay so at any temperature."""
    a = write_annotation(tmp_path / "a.json", {"asr": 60})
    b = write_annotation(tmp_path / "b.json", {"QA": 20})
    mixture = load_mixture([(a, 1.0), (b, 3.0)], seed=0, task_temperature=3.0)
    found = Counter(mixture.clips[p].task for p in mixture.positions(0))
    assert found == {"asr": 60, "QA": 60}


def test_sampler_shows_what_the_mixture_chooses(tmp_path: Path) -> None:
    listed = [
        (write_annotation(tmp_path / f"{name}.json", {"asr": 9}), weight)
        for name, weight in (("a", 1.5), ("b", 0.4))
    ]
    mixture = load_mixture(listed, seed=0)
    sampler = StepBatchSampler(
        [1.0] * len(mixture.clips), step_size=4, seed=0, choose_clips=mixture.positions
    )
    for epoch in range(4):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sampler.num_steps(epoch) == len(batches)
        shown = sorted(clip for batch in batches for clip in batch)
        assert shown == mixture.positions(epoch).tolist()


def test_description_has_a_line_per_annotation(tmp_path: Path) -> None:
    a = write_annotation(tmp_path / "a.json", {"asr": 50, "QA": 10})
    b = write_annotation(tmp_path / "b.json", {"audiocaption": 40})
    mixture = load_mixture([(a, 2.0), (b, 1.0)], seed=0)
    assert describe_mixture(mixture) == [
        f"{a}: 60 clips, 120 per epoch (75.0 %): asr 100, QA 20",
        f"{b}: 40 clips, 40 per epoch (25.0 %): audiocaption 40",
    ]


def test_mistakes_name_the_annotation(tmp_path: Path) -> None:
    a = write_annotation(tmp_path / "a.json", {"asr": 2})
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"annotation": [{"path": "a.wav"}]}), encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.json: annotation\[0\]: \"text\" is missing"):
        load_mixture([(a, 1.0), (str(bad), 1.0)], seed=0)
    with pytest.raises(UserError, match=r"lists .*a\.json 2 times; list it once, with weight: 2"):
        load_mixture([(a, 1.0), (a, 1.0)], seed=0)
    with pytest.raises(UserError, match=r"may hold no clip: .*a\.json \(weight 0\.1\)"):
        load_mixture([(a, 0.1)], seed=0)


@pytest.mark.parametrize("weights", [(1.0, 2.5), (1.0,)])
def test_indexed_annotations_make_the_same_mixture(
    weights: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = [
        (write_annotation(tmp_path / f"{number}.json", {"asr": 9, "QA": 4 + number}), weight)
        for number, weight in enumerate(weights)
    ]
    plain = load_mixture(corpora, seed=1, task_temperature=2.0)
    monkeypatch.setattr(annotations, "INDEXED_FROM_BYTES", 0)
    indexed = load_mixture(corpora, seed=1, task_temperature=2.0)
    assert list(indexed.clips) == list(plain.clips)
    assert [indexed.clips[-1], *indexed.clips[3:-1:4]] == [plain.clips[-1], *plain.clips[3:-1:4]]
    for epoch in range(4):
        assert indexed.positions(epoch).tolist() == plain.positions(epoch).tolist()
    assert collect_tasks(indexed.clips) == collect_tasks(plain.clips) == {"asr", "QA"}
    groups, expected = group_by_task(indexed.clips), group_by_task(list(plain.clips))
    assert {task: found.tolist() for task, found in groups.items()} == {
        task: found.tolist() for task, found in expected.items()
    }
    np.testing.assert_array_equal(load_seconds(indexed.clips), load_seconds(list(plain.clips)))
    with pytest.raises(IndexError):
        indexed.clips[len(indexed.clips)]
