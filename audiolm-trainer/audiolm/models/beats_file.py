"""The BEATs `.pt` container: read it, and check its tensors against what the encoder needs.

The file is `{"cfg": dict, "model": state_dict}`, with `label_dict` beside them when fine-tuned. The
state dict repeats the relative bias table for every layer and may hold the classifier head
(`predictor.*`); one table is kept and the head is left out.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiolm.errors import UserError

BIAS_NAME = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
BIAS_PATTERN = re.compile(re.escape(BIAS_NAME).replace(r"\{\}", r"\d+"))
HEAD_PREFIX = "predictor."


def load_beats_file(
    path: str | Path, *, is_mapped: bool = False
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return `cfg` and `model` of a BEATs file, on the CPU.

    With `is_mapped` the tensors stay in the file until they are used, where its format allows it.

    Raises:
        UserError: the file is missing, unreadable, or is another kind of file.
    """
    if not Path(path).is_file():
        raise UserError(
            f"model.beats_path: no such file: {path}; give the path of a BEATs .pt file"
        )
    try:
        mmap = is_mapped and zipfile.is_zipfile(path)  # files of torch before 1.6 are none
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"model.beats_path: cannot read {path} as a BEATs .pt file: {reason}"
        ) from error
    if not isinstance(content, dict) or not {"cfg", "model"} <= content.keys():
        found = (
            sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__
        )
        raise UserError(
            f"model.beats_path: {path} is not a BEATs file: it should hold 'cfg' and 'model', "
            f"it holds {found}"
        )
    config, weights = content["cfg"], content["model"]
    if not isinstance(config, dict) or not isinstance(weights, dict):
        raise UserError(
            f"model.beats_path: {path} is not a BEATs file: 'cfg' and 'model' should be dicts"
        )
    return config, weights


def select_encoder_weights(
    weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: str | Path
) -> dict[str, Tensor]:
    """Take the tensors named in `shapes` out of a file's state dict.

    Raises:
        UserError: a tensor is missing, unexpected or of the wrong shape (all are listed), or the
            layers' relative bias tables, which are one table, differ.
    """
    tables = [name for name in weights if BIAS_PATTERN.fullmatch(name)]
    first_table = BIAS_NAME.format(0)
    selected = {name: weights[name] for name in weights if name in shapes}
    unexpected = [
        name
        for name in weights
        if name not in shapes
        and not name.startswith(HEAD_PREFIX)
        and not (first_table in shapes and name in tables)
    ]
    problems = [f"missing {name}" for name in shapes if name not in weights]
    problems += [f"unexpected {name}" for name in unexpected]
    problems += [
        f"{name} is {tuple(tensor.shape)} instead of {shapes[name]}"
        for name, tensor in selected.items()
        if tuple(tensor.shape) != shapes[name]
    ]
    if not problems and first_table in shapes:
        problems += [
            f"{name} differs from {first_table}, but it is one table shared by all layers"
            for name in tables
            if not torch.equal(weights[name], weights[first_table])
        ]
    if problems:
        raise UserError(
            f"model.beats_path: {path} does not fit its own cfg: " + "; ".join(problems)
        )
    return selected
