"""A Q-Former of its true size, as in released checkpoints, against the recorded numbers.

The weights are rebuilt from a rule instead of being shipped. The recorded batch is padded, so only
its longest clip (row 2) is comparable: the reference lets BEATs' padding into the others.
"""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from audiolm.config import QFormerConfig
from audiolm.models.checkpoint import trainable_state
from audiolm.models.decode import generate_ids
from audiolm.models.salmonn import SALMONN
from tests.golden import GOLDEN_DIR, Golden, cut_at_stop, load_json

FOLDER = GOLDEN_DIR / "fullqf"
ROW = 2
NUM_WINDOWS = 88  # of each clip
EMBEDS_ATOL = 1e-4  # values up to 3; 12 times wider layers than in the other recordings


@pytest.fixture(scope="module")
def shapes() -> dict[str, list[int]]:
    return load_json(FOLDER / "shapes.json")


@pytest.fixture(scope="module")
def model(
    dev: Golden, shapes: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory
) -> SALMONN:
    build: Callable[..., Any] = runpy.run_path(str(FOLDER / "make_ckpt.py"))["build"]
    path: Path = tmp_path_factory.mktemp("fullqf") / "checkpoint.pth"
    torch.save({"model": build(shapes)}, path)
    return dev.build_model(ckpt=str(path), qformer=QFormerConfig().__dict__)


def test_default_sizes_are_the_released_ones(model: SALMONN, shapes: dict[str, list[int]]) -> None:
    state = trainable_state(model)
    assert {key: list(value.shape) for key, value in state.items()} == shapes
    num_trained = load_json(FOLDER / "values.json")["n_trainable"]
    assert sum(value.numel() for value in state.values()) == num_trained


@torch.no_grad()
def test_row_without_padding(model: SALMONN, dev: Golden) -> None:
    recorded = load_file(FOLDER / "tensors.safetensors")
    queries = []
    assert model.speech_Qformer is not None
    model.speech_Qformer.register_forward_hook(
        lambda module, args, output: queries.append(output.last_hidden_state)
    )
    samples = dev.load_samples([ROW])
    embeds, _ = model.encode_speech(samples["spectrogram"], samples["raw_wav"])
    expected = recorded["encode.speech_embeds.batch"][[ROW]]
    torch.testing.assert_close(embeds, expected, atol=EMBEDS_ATOL, rtol=0)

    # Every 16th window of the batch is recorded: of this clip, those from 176 on.
    first = ROW * NUM_WINDOWS
    assert first % 16 == 0
    expected = recorded["encode.qformer_out_w16"][first // 16 :]
    torch.testing.assert_close(queries[0][::16], expected, atol=EMBEDS_ATOL, rtol=0)


@torch.no_grad()
def test_greedy_tokens(model: SALMONN, dev: Golden) -> None:
    expected = load_json(FOLDER / "values.json")["greedy_ids"][ROW]
    prompts = dev.generations["greedy"]["prompts"][:1]
    inputs = model.prepare(dev.load_samples([ROW]), prompts)
    options = {"max_new_tokens": len(expected), "num_beams": 1}
    ids = generate_ids(model.llm, model.llama_tokenizer, inputs, options, "")
    assert cut_at_stop(ids[0].tolist(), ()) == expected
