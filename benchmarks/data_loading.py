"""How fast clips are loaded: ours, against librosa with transformers, and a plain DataLoader.

    python benchmarks/data_loading.py --work DIR [--clips N] [--rounds N] [--workers 0 1 2] \\
        [--out JSON]

In: nothing; clips of 10 s are made under DIR. Out: a table of clips per second by format and number
of loading processes, medians over rounds in which the ways take turns, and a JSON with every
sample, that `data_tables.py` makes the table of again.

- ours: `AudioDataset`, `EvaluationBatchSampler`, `build_loader`, as evaluation uses them.
- librosa: `librosa.load(path, sr=16000)` and `WhisperFeatureExtractor`, in a DataLoader.
- plain: torch's DataLoader over a data set of the shortest kind: soundfile, librosa's resampling
  where it is needed, the same extractor, padding to the longest in the batch.

Every way gives log-mel (80, 3000) and the waveform of each clip, in batches of 8.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from data_tables import format_loading
from midsize import describe_start
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "audiolm-trainer"))

from audiolm.audio.features import LogMel  # noqa: E402
from audiolm.data.batches import build_loader  # noqa: E402
from audiolm.data.clips import Clip  # noqa: E402
from audiolm.data.dataset import AudioDataset  # noqa: E402
from audiolm.data.sampler import EvaluationBatchSampler  # noqa: E402
from audiolm.evaluation.machine import describe_machine, find_commit  # noqa: E402

CLIP_SECONDS = 10.0
BATCH_SIZE = 8
NUM_MEL_BINS = 80
FORMATS: dict[str, tuple[str, int]] = {
    "wav, 16 kHz": ("wav", 16_000),
    "wav, 44.1 kHz": ("wav", 44_100),
    "flac, 16 kHz": ("flac", 16_000),
    "mp3, 16 kHz": ("mp3", 16_000),
}
WAYS = ("ours", "librosa", "plain")


class LibrosaClips(Dataset[dict[str, Any]]):
    """What the tools' own examples do for a clip."""

    def __init__(self, paths: Sequence[Path]) -> None:
        from transformers import WhisperFeatureExtractor

        self.paths = paths
        self.extract = WhisperFeatureExtractor(feature_size=NUM_MEL_BINS)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        samples = self.read(self.paths[index])
        features = self.extract(samples, sampling_rate=16_000, return_tensors="pt")
        return {"spectrogram": features["input_features"][0], "raw_wav": torch.from_numpy(samples)}

    def read(self, path: Path) -> np.ndarray:
        import librosa

        return librosa.load(path, sr=16_000)[0]


class PlainClips(LibrosaClips):
    """The same with soundfile, and resampling only where it is needed."""

    def read(self, path: Path) -> np.ndarray:
        samples, rate_hz = soundfile.read(path, dtype="float32")
        if rate_hz != 16_000:
            import librosa

            samples = librosa.resample(samples, orig_sr=rate_hz, target_sr=16_000)
        return samples


def main() -> int:
    """Measure all ways in turn and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--clips", type=int, default=64, help="clips per pass")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each way")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="JSON to write (data_loading.json in DIR)")
    arguments = parser.parse_args()
    started_at = describe_start()
    torch.set_num_threads(1)
    samples: dict[str, list[float]] = {}
    for name, (suffix, rate_hz) in FORMATS.items():
        paths = write_clips(arguments.work, suffix, rate_hz, arguments.clips)
        for num_workers in arguments.workers:
            passes = {way: build_pass(way, paths, num_workers) for way in WAYS}
            for way in WAYS:
                run_pass(passes[way])  # warms up; loading processes stay for the next passes
            for _ in range(arguments.rounds):
                for way in WAYS:
                    started = time.perf_counter()
                    num_clips = run_pass(passes[way])
                    speed = num_clips / (time.perf_counter() - started)
                    samples.setdefault(f"{name}/{num_workers}/{way}", []).append(round(speed, 2))
    report = {
        "benchmark": "data_loading",
        **started_at,
        "settings": {"clips": arguments.clips, "rounds": arguments.rounds},
        "machine": describe_machine(torch.device("cpu")),
        "commit": find_commit(),
        "clips_per_second": samples,
    }
    out = arguments.out or arguments.work / "data_loading.json"
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{format_loading(report)}\n{out}")
    return 0


def write_clips(work: Path, suffix: str, rate_hz: int, num_clips: int) -> list[Path]:
    """Noise with a tone: nothing that a codec could leave out."""
    folder = work / f"{suffix}_{rate_hz}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.{suffix}" for number in range(num_clips)]
    times = np.arange(round(CLIP_SECONDS * rate_hz)) / rate_hz
    for number, path in enumerate(paths):
        if not path.exists():
            noise = np.random.default_rng(number).normal(size=times.shape) * 0.05
            soundfile.write(path, 0.2 * np.sin(1000 * times) + noise, rate_hz)
    return paths


def build_pass(way: str, paths: Sequence[Path], num_workers: int) -> Callable[[], Iterator[Any]]:
    """A function that gives the batches of a pass over all clips."""
    if way == "ours":
        clips = [Clip(number, str(path), ("x",)) for number, path in enumerate(paths)]
        dataset = AudioDataset(clips, "", LogMel(NUM_MEL_BINS))
        sampler = EvaluationBatchSampler([CLIP_SECONDS] * len(clips), BATCH_SIZE)
        loader: DataLoader[Any] = build_loader(dataset, sampler, num_workers)
    else:
        plain = PlainClips(paths) if way == "plain" else LibrosaClips(paths)
        loader = DataLoader(
            plain,
            batch_size=BATCH_SIZE,
            collate_fn=collate_plainly,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )
    return lambda: iter(loader)


def collate_plainly(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    waves = torch.nn.utils.rnn.pad_sequence([item["raw_wav"] for item in items], batch_first=True)
    return {"spectrogram": torch.stack([item["spectrogram"] for item in items]), "raw_wav": waves}


def run_pass(start: Callable[[], Iterator[Any]]) -> int:
    return sum(len(batch["spectrogram"]) for batch in start())


if __name__ == "__main__":
    sys.exit(main())
