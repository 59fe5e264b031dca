"""What is measured: the stack and clips of the benchmarks, and the ways to build a model of them.

A way's name is a mode of ours, or a mode and what is switched on besides (`light_cached`), or
`plain` (see `plain.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAYS: dict[str, tuple[str, ...]] = {
    "construct": ("ours", "plain"),
    "train": (
        "exact", "light", "exact_cached", "light_cached", "exact_checkpointed",
        "light_checkpointed", "light_checkpointed_cached", "light_nf4", "plain",
    ),
    "infer": ("exact", "light", "plain"),
    "files": ("in_turn",),  # ours and plain in one process, file by file
}  # fmt: skip
MODES: dict[str, dict[str, str]] = {
    "ours": {},
    "exact": {"audio_tokens": "fixed", "whisper_input": "padded"},
    "light": {"audio_tokens": "length_aware", "whisper_input": "trimmed"},
}
SAVINGS: dict[str, dict[str, str]] = {
    "": {},
    "cached": {},  # both encoders' outputs are read instead
    "checkpointed": {"gradient_checkpointing": "all"},
    "checkpointed_cached": {"gradient_checkpointing": "all"},
    "nf4": {"quantization": "nf4"},
}
QFORMERS: dict[str, dict[str, int]] = {
    "midsize": {},  # the defaults: bert-base's dimensions
    "tiny": {"hidden_size": 32, "num_heads": 4, "intermediate_size": 64},
}
CLIP_SECONDS = 10.0
BATCH_SIZE = 4
FILE_RATES_HZ = (16_000, 44_100)
PROMPT = "USER: <Speech><SpeechHere></Speech> Write down what the speaker says.\nASSISTANT:"
ANSWERS = (
    "the boat left the harbour before the rain came and nobody saw it return",
    "please put the small red box on the table next to the open window",
    "a train to the north leaves at half past seven from the second platform",
    "she counted the steps to the tower twice and got a different number",
)
TEXTS = (*PROMPT.split("<SpeechHere>"), *ANSWERS)


@dataclass(frozen=True)
class Setup:
    """Where the inputs are, and how often to measure."""

    work: Path
    size: str
    repeats: int
    plain_attention: str

    @property
    def stack_dir(self) -> Path:
        """Folder of `build_random_stack`."""
        return self.work / f"stack_{self.size}"

    @staticmethod
    def clip_name(index: int, rate_hz: int) -> str:
        """A clip's file, relative to `work`."""
        return f"clips/clip{index}_{rate_hz}.wav"


def build_model(way: str, setup: Setup) -> Any:
    """The model in eval mode: `PlainModel`, or `SALMONN` in one of `MODES` and `SAVINGS`."""
    if way == "plain":
        from plain import PlainModel

        from audiolm.config import QFormerConfig

        folder = setup.stack_dir
        return PlainModel(
            whisper_path=folder / "whisper",
            beats_path=folder / "beats.pt",
            llama_path=folder / "llama",
            qformer=QFormerConfig(**QFORMERS[setup.size]),
            attention=setup.plain_attention,
        )
    from audiolm.models.build import build_salmonn

    options = build_options(way, setup)
    return build_salmonn(options, has_encoders=not way.endswith("_cached"))


def build_options(way: str, setup: Setup) -> dict[str, Any]:
    """The `model` section of one of our ways."""
    folder = setup.stack_dir
    mode, _, saving = way.partition("_")
    return {
        "whisper_path": str(folder / "whisper"),
        "beats_path": str(folder / "beats.pt"),
        "llama_path": str(folder / "llama"),
        "qformer": QFORMERS[setup.size],
        **MODES[mode],
        **SAVINGS[saving],
    }


def store_features(setup: Setup) -> None:
    """Write what the `cached` ways read: each clip's encoder outputs, as a feature cache has them.

    Not in a process that is measured: it loads the encoders.
    """
    import torch

    from audiolm.config_file import build_model_config
    from audiolm.training.feature_encoder import ClipEncoder

    dataset = build_dataset(setup, FILE_RATES_HZ[0])
    for way in WAYS["train"]:
        if way.endswith("_cached"):
            options = build_model_config(build_options(way, setup))
            encoder = ClipEncoder(options, torch.device("cpu"), torch.float32)
            items = [encoder.encode(dataset.read_audio(clip)) for clip in dataset.clips]
            torch.save(items, StoredClips.path(setup, way))


class StoredClips:
    """The outputs that `store_features` wrote, by clip."""

    def __init__(self, setup: Setup, way: str) -> None:
        import torch

        self._items = torch.load(self.path(setup, way), weights_only=True, mmap=True)

    @staticmethod
    def path(setup: Setup, way: str) -> Path:
        """The file of a way."""
        return setup.work / f"features_{setup.size}_{way}.pt"

    def load(self, clip: Any) -> dict[str, Any]:
        """As `FeatureCache.load`."""
        return dict(self._items[clip.index])


def build_dataset(setup: Setup, rate_hz: int) -> Any:
    """The clips at one rate, each with its answer."""
    from audiolm.audio.features import LogMel
    from audiolm.data.annotations import Clip
    from audiolm.data.dataset import AudioDataset

    log_mel = LogMel.from_pretrained(setup.stack_dir / "whisper")
    names = [setup.clip_name(index, rate_hz) for index in range(BATCH_SIZE)]
    clips = [Clip(i, name, (ANSWERS[i],)) for i, name in enumerate(names)]
    return AudioDataset(clips, setup.work, log_mel)
