"""Numbers recorded from the reference system, and how ours are compared with them.

In: a folder of `tests/data/golden` and an adapter's name. Out: `Golden`, which builds the recorded
model, loads the clips that went into it (through this package's own loaders), and compares. The
format and the tolerances are described in `tests/data/golden/README.md`.

Letters: B clips, S row length, V vocabulary.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from audiolm.audio.features import LogMel
from audiolm.config import Config, ModelConfig
from audiolm.config_file import build_config, load_config
from audiolm.data.annotations import load_annotation
from audiolm.data.batches import collate
from audiolm.data.dataset import AudioDataset
from audiolm.models.salmonn import SALMONN

GOLDEN_DIR = Path(__file__).resolve().parent / "data" / "golden"
LOSS_ATOL = 2e-5  # from the recordings' README; float32 noise is 1e-6
GRAD_NORM_RTOL = 2e-4
ZERO_GRAD_ATOL = 1e-5  # of gradients that are zero but for rounding


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def name_changes(value: Any) -> str:
    """A test's id from changed options: `audio_tokens=fixed-lora_rank=4`; else empty."""
    return "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else ""


class Golden:
    """One recorded variant with one adapter."""

    def __init__(self, variant: str, adapter: str) -> None:
        self.variant = variant
        self.adapter = adapter
        self.folder = GOLDEN_DIR / variant
        goldens = self.folder / "goldens"
        self.tensors: dict[str, torch.Tensor] = {}
        for path in sorted(goldens.glob("tensors_*.safetensors")):
            self.tensors.update(load_file(path))
        meta = load_json(goldens / f"meta_{adapter}.json")
        self.values, self.dataset = meta["values"], meta["dataset"]
        self.generations = load_json(goldens / f"generate_{adapter}.json")
        self.optimisation = load_json(goldens / f"optim_{adapter}.json")
        self.tolerances = load_json(goldens / "tolerances.json")

    # The recorded model and its input

    @functools.cached_property
    def config(self) -> Config:
        """The reference's YAML, with the sizes that the reference kept elsewhere."""
        config = load_config(self.folder / f"config_{self.adapter}.yaml")
        sizes = load_json(self.folder / "variant.json")
        qformer = sizes["qformer_bert_config_overrides"]
        config.model.qformer.hidden_size = qformer["hidden_size"]
        config.model.qformer.num_heads = qformer["num_attention_heads"]
        config.model.qformer.intermediate_size = qformer["intermediate_size"]
        if self.adapter == "vblora":
            config.model.adapter = "vblora"
            config.model.adapter_options = sizes["vblora_config_overrides"]
        return config

    def model_config(self, **changes: Any) -> ModelConfig:
        """The `model` section with options changed; checked as a user's would be."""
        section = dataclasses.asdict(self.config.model) | changes
        return build_config({"model": section}).model

    def build_model(self, **changes: Any) -> SALMONN:
        return SALMONN.from_config(self.model_config(**changes))

    def load_samples(
        self,
        rows: Iterable[int] = (0, 1, 2),
        *,
        num_samples: int | None = None,
        annotation: str = "annotation_asr.json",
    ) -> dict[str, Any]:
        """A batch of the annotation's clips, each cut to `num_samples` when given."""
        log_mel = LogMel.from_pretrained(self.folder / "components" / "whisper")
        clips = load_annotation(self.folder / annotation)
        dataset = AudioDataset(clips, self.folder / "audio", log_mel)
        items = []
        for row in rows:
            item = dataset[row]
            assert isinstance(item, dict)
            if num_samples is not None:
                item["raw_wav"] = item["raw_wav"][:num_samples]
                item["spectrogram"] = log_mel(item["raw_wav"].numpy())
            items.append(item)
        return collate(items)

    def load_batch(self, name: str) -> dict[str, Any]:
        """A recorded batch without padding defects: `equal` or `single.J`."""
        if name == "equal":
            lengths = [clip["raw_wav_len"] for clip in list(self.dataset.values())[:3]]
            return self.load_samples(num_samples=min(lengths))
        return self.load_samples([int(name.removeprefix("single."))])

    def prompts(self, batch: str) -> list[str]:
        """The templated training prompts of a recorded batch."""
        prompts = self.values["forward.same"]["prompts"]
        return prompts if batch == "equal" else prompts[:1]

    # Comparing

    def has_tensor(self, key: str) -> bool:
        return self._full_key(key) in self.tensors

    def tensor(self, key: str) -> torch.Tensor:
        return self.tensors[self._full_key(key)]

    def assert_close(self, key: str, actual: torch.Tensor, *, rows: Any = slice(None)) -> None:
        """`actual` equals the recording (of those rows) within three times its own tolerance, which
        is twenty times the difference between the reference in float32 and in float64: the
        filterbank is another implementation, and rounding differs between CPUs."""
        tolerances = self.tolerances["tensors"]
        atol = tolerances.get(self._full_key(key), tolerances.get(key))["atol"] * 3
        expected = self.tensor(key)[rows]
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual.detach(), expected, atol=atol, rtol=0, check_dtype=False)

    def assert_tokens(
        self, key: str, ids: torch.Tensor, stop_ids: Sequence[int], rows: Sequence[int]
    ) -> None:
        """Token ids (B, S) equal those recorded for `rows`, up to each row's first stop token.

        Which stop token a finished beam ends with differs between versions of transformers.
        """
        expected = [cut_at_stop(row, stop_ids) for row in self.generations[key]["ids"]]
        actual = [cut_at_stop(row, stop_ids) for row in ids.tolist()]
        assert actual == [expected[row] for row in rows]

    def _full_key(self, key: str) -> str:
        """The key of this adapter's tensor, or of the one that all adapters share."""
        own = f"{self.adapter}.{key}"
        return own if own in self.tensors else key


def cut_at_stop(row: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """The ids before the first stop token."""
    end = next((place for place, token in enumerate(row) if token in stop_ids), len(row))
    return list(row[:end])
