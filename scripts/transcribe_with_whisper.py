"""Whisper's own word error rate on an annotation: encoder and decoder, without our model.

    python scripts/transcribe_with_whisper.py --whisper real/models/whisper-tiny.en \
        --annotation real/corpus/test.json --prefix real/corpus -o real/whisper.json

The yardstick for a model that is built on the same encoder. Decoding is greedy; the scorers are
those of evaluate_salmonn.py, on the same references.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from audiolm.errors import run_command

MAX_NEW_TOKENS = 200


def main(arguments: Sequence[str]) -> int:
    """Parse the command line, transcribe, score, say how well."""
    options = build_parser().parse_args(arguments)

    from audiolm.data.annotations import load_annotation
    from audiolm.evaluation.asr import compute_wer

    clips = load_annotation(options.annotation, require_text=True)
    paths = [Path(options.prefix) / clip.path.lstrip("/") for clip in clips]
    hypotheses = transcribe(options.whisper, paths)
    references = [clip.texts[0] for clip in clips]
    rows = [
        {"path": clip.path, "reference": reference, "hypothesis": hypothesis}
        for clip, reference, hypothesis in zip(clips, references, hypotheses, strict=True)
    ]
    rates = {
        scorer: compute_wer(hypotheses, references, scorer=scorer).wer
        for scorer in ("reference", "open_asr")
    }
    Path(options.output).write_text(
        json.dumps({"wer": rates, "clips": rows}, indent=2) + "\n", encoding="utf-8"
    )
    for scorer, rate in rates.items():
        print(f"WER, scorer {scorer}: {rate:.4f} ({len(clips)} clips)")
    return 0


def transcribe(whisper_path: str, paths: Sequence[Path]) -> list[str]:
    """Greedy transcripts of audio files, one at a time."""
    import torch
    from transformers import (
        AutoTokenizer,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    from audiolm.audio.loading import SAMPLE_RATE_HZ, load_waveform

    model = WhisperForConditionalGeneration.from_pretrained(whisper_path).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(whisper_path)
    tokenizer = AutoTokenizer.from_pretrained(whisper_path)
    hypotheses = []
    for path in paths:
        samples = load_waveform(path).samples
        features = extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        with torch.no_grad():
            ids: Any = model.generate(
                input_features=features.input_features,
                num_beams=1,
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
            )
        hypotheses.append(str(tokenizer.decode(ids[0], skip_special_tokens=True)).strip())
    return hypotheses


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--whisper", required=True, help="Whisper folder or hub id")
    parser.add_argument("--annotation", required=True, help="clips with their texts")
    parser.add_argument("--prefix", required=True, help="folder that the clips' paths start from")
    parser.add_argument("-o", "--output", required=True, help="JSON file to write")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    run_command(main)
