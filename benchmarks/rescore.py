"""What it costs to score many saved predictions again, intervals and report included.

    python benchmarks/rescore.py --work DIR [--clips 100000] [--kinds asr aac] [--repeats 3]

In: nothing; predictions are made under DIR from the seed: transcripts of 5 to 60 words with errors,
capitals, stops, numbers and contractions; captions of 4 to 20 words with five references each. Out:
a JSON line per run and a table of medians. Each run is `evaluate_salmonn.py --rescore` in a fresh
process: wall time, processor time and peak memory of it and of all the processes it starts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
NUM_WORDS = 20_000  # different ones
NUM_CAPTION_WORDS = 4_000
NUM_REFERENCES = 5
SYLLABLES = [
    c + v for c in "b ch d f g h k l m n p r s t tr w".split() for v in "a e i o u".split()
]
FREQUENT = "the of and to a in that it is was he for with as his on be at i had not but you".split()
SPECIAL = (
    "twenty five two hundred don't it's colour mr. Mr. 1,250 3.5 u.s. O'Brien well-known".split()
)
COLUMNS = ("kind", "clips", "wall, s", "processor, s", "peak memory, MiB")


def main() -> int:
    """Run every kind and print what it took."""
    arguments = parse_arguments()
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in arguments.kinds}
    for kind in arguments.kinds:
        folder = arguments.work / f"{kind}_{arguments.clips}_{arguments.seed}"
        write_predictions(folder, kind, arguments.clips, arguments.seed)
    for _ in range(arguments.repeats):
        for kind in arguments.kinds:  # in turn, so that a busy moment hits all alike
            folder = arguments.work / f"{kind}_{arguments.clips}_{arguments.seed}"
            run = {"kind": kind, "clips": arguments.clips, **measure_rescoring(folder)}
            runs[kind].append(run)
            print(json.dumps(run), flush=True)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---:|" * (len(COLUMNS) - 1))
    for kind, samples in runs.items():
        medians = (
            statistics.median(run[name] for run in samples)
            for name in ("wall_seconds", "processor_seconds", "peak_mib")
        )
        print(
            f"| {kind} | {arguments.clips:,} | " + " | ".join(f"{m:,.1f}" for m in medians) + " |"
        )
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for predictions")
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", choices=("asr", "aac"), default=["asr", "aac"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the texts")
    return parser.parse_args()


def write_predictions(folder: Path, kind: str, num_clips: int, seed: int) -> None:
    """A finished evaluation's predictions; the same seed gives the same file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"mode": f"valid_{kind}", "seed": seed}))
    generator = np.random.default_rng(seed)
    texts = make_transcripts if kind == "asr" else make_captions
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for index, (hypothesis, references) in enumerate(texts(generator, num_clips)):
            row = {
                "index": index, "id": f"{kind}/{index:06d}.flac", "testset_id": None,
                "task": "asr" if kind == "asr" else "audiocaption_v2",
                "prompt": "USER: <Speech><SpeechHere></Speech> ...\nASSISTANT:",
                "text": hypothesis, "references": references, "raw_text": hypothesis,
                "num_tokens": 2 * len(hypothesis.split()), "stop_reason": "end_token",
                "log_probability": -3.25, "audio_seconds": float(generator.uniform(1, 30)),
                "seconds": 0.05,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


def make_transcripts(generator: np.random.Generator, num_clips: int) -> Any:
    """Pairs of an answer and its one reference, with an error in every 15 words or so."""
    vocabulary = make_vocabulary(generator, NUM_WORDS)
    vocabulary[40:52] = SPECIAL
    chances = 1 / np.arange(2.7, len(vocabulary) + 2.7)  # Zipf and Mandelbrot
    chances /= chances.sum()
    for size in np.clip(generator.gamma(4.0, 5.0, num_clips), 5, 60).astype(int):
        words = [vocabulary[i] for i in generator.choice(len(vocabulary), size, p=chances)]
        said = []
        for word, chance in zip(words, generator.random(size), strict=True):
            if chance < 0.01:  # left out
                continue
            wrong = vocabulary[int(generator.integers(len(vocabulary)))]
            said += [wrong] if chance < 0.05 else [word, wrong] if chance < 0.06 else [word]
        yield " ".join(said).capitalize() + ".", [" ".join(words)]


def make_captions(generator: np.random.Generator, num_clips: int) -> Any:
    """Answers with five references each that share some of their words."""
    vocabulary = make_vocabulary(generator, NUM_CAPTION_WORDS)
    chances = 1 / np.arange(2.7, len(vocabulary) + 2.7)
    chances /= chances.sum()
    sizes = np.clip(generator.normal(11, 3, (num_clips, 1 + NUM_REFERENCES)), 4, 20).astype(int)
    for clip_sizes in sizes:
        topic = generator.choice(len(vocabulary), 20, p=chances)
        texts = [" ".join(vocabulary[i] for i in generator.choice(topic, n)) for n in clip_sizes]
        said, *references = (f"{text.capitalize()}." for text in texts)
        yield said, references


def make_vocabulary(generator: np.random.Generator, size: int) -> list[str]:
    """Different words, the most frequent first."""
    words = dict.fromkeys(FREQUENT)
    while len(words) < size:
        words["".join(generator.choice(SYLLABLES, generator.integers(2, 5)))] = None
    return list(words)


def measure_rescoring(folder: Path) -> dict[str, float]:
    """Score the folder's predictions in a fresh process."""
    command = [
        sys.executable,
        str(ROOT / "evaluate_salmonn.py"),
        "--rescore",
        str(folder.resolve()),
    ]
    before, started = os.times(), time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        peak_bytes = 0
        while process.poll() is None:
            peak_bytes = max(peak_bytes, read_memory(process.pid))
            time.sleep(0.2)
    seconds, after = time.perf_counter() - started, os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    return {
        "wall_seconds": round(seconds, 2),
        "processor_seconds": round(used, 2),
        "peak_mib": round(peak_bytes / 2**20, 1),
    }


def read_memory(pid: int) -> int:
    """Bytes that a process and its children hold, what they share counted once (Linux: Pss)."""
    total = 0
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            memory = each.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    except psutil.NoSuchProcess:  # it has just ended
        return total
    return total


if __name__ == "__main__":
    sys.exit(main())
