"""The corpora that can be imported, by the name a user types."""

from pathlib import Path

from audiolm.data.importers import (
    captions,
    gigaspeech,
    huggingface,
    librispeech,
    manifests,
)
from audiolm.data.importers.sources import CorpusKind

CAPTION_TASK = "audiocaption_v2"

# In the order in which a folder's kind is guessed: the particular before the general.
CORPUS_KINDS: dict[str, CorpusKind] = {
    "librispeech": CorpusKind(
        "LibriSpeech", librispeech.LAYOUT, "asr", librispeech.read, librispeech.recognises
    ),
    "gigaspeech": CorpusKind(
        "GigaSpeech", gigaspeech.LAYOUT, "asr", gigaspeech.read, gigaspeech.recognises
    ),
    "audiocaps": CorpusKind(
        "AudioCaps",
        captions.AUDIOCAPS_LAYOUT,
        CAPTION_TASK,
        captions.read_audiocaps,
        captions.recognises_audiocaps,
    ),
    "clotho": CorpusKind(
        "Clotho",
        captions.CLOTHO_LAYOUT,
        CAPTION_TASK,
        captions.read_clotho,
        captions.recognises_clotho,
    ),
    "wavcaps": CorpusKind(
        "WavCaps",
        captions.WAVCAPS_LAYOUT,
        CAPTION_TASK,
        captions.read_wavcaps,
        captions.recognises_wavcaps,
    ),
    "nemo": CorpusKind(
        "NeMo manifest",
        manifests.NEMO_LAYOUT,
        "asr",
        manifests.read_nemo,
        manifests.recognises_nemo,
    ),
    "hf": CorpusKind(
        "Hugging Face data set",
        huggingface.LAYOUT,
        "asr",
        huggingface.read,
        huggingface.recognises,
    ),
    "salmonn": CorpusKind(
        "SALMONN annotation",
        manifests.SALMONN_LAYOUT,
        "asr",
        manifests.read_salmonn,
        manifests.recognises_salmonn,
    ),
    "csv": CorpusKind(
        "table", manifests.CSV_LAYOUT, "asr", manifests.read_csv, manifests.recognises_csv
    ),
}


def guess_kind(source: Path) -> str | None:
    """The first kind that a path looks like."""
    if not source.exists():
        return None
    return next((name for name, kind in CORPUS_KINDS.items() if kind.recognises(source)), None)
