"""Load a transformers model from a folder or hub id, quietly, with messages that name the cure."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from audiolm.errors import UserError

WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MISSING_FLASH_ATTENTION = (
    "model.attn_implementation: flash_attention_2 needs the flash-attn package and a GPU; "
    "use auto or sdpa"
)


def load_pretrained(
    model_class: Any,
    path: str,
    *,
    option: str,
    attn_implementation: str = "auto",
    token: str = "",
    config_class: Any = None,
    **arguments: Any,
) -> Any:
    """`model_class.from_pretrained(path)`; `option` is the configuration key that gave the path.

    Raises:
        UserError: no such folder or hub id, a folder of another kind, or an attention
            implementation that is not there.
    """
    if attn_implementation != "auto":
        arguments["attn_implementation"] = attn_implementation
    with explained_errors(option, path), quiet_transformers():
        if config_class is not None:
            arguments["config"] = read_config(config_class, path, option, token)
        model, report = model_class.from_pretrained(
            path, token=token or None, output_loading_info=True, **arguments
        )
    if report["missing_keys"]:  # transformers would leave them random
        missing = ", ".join(sorted(report["missing_keys"]))
        raise UserError(f"{option}: {path} lacks weights of this model: {missing}")
    return model


def read_config(config_class: Any, path: str, option: str, token: str) -> Any:
    """A model's configuration; a `UserError` when it is of another kind of model."""
    raw, _ = config_class.get_config_dict(path, token=token or None)
    if raw.get("model_type") != config_class.model_type:
        raise UserError(
            f"{option}: {path} holds a {raw.get('model_type')!r} model, "
            f"expected {config_class.model_type!r}"
        )
    return config_class.from_dict(raw)


def find_weight_files(path: str, option: str, token: str = "") -> list[Path]:
    """`config.json` and the weights that transformers would read, of a folder or hub id.

    Raises:
        UserError: there are none.
    """
    with explained_errors(option, path):
        found = [Path(str(cached_file(path, "config.json", token=token or None)))]
        for name in WEIGHT_NAMES:  # in transformers' order
            try:
                weights = Path(str(cached_file(path, name, token=token or None)))
            except OSError:
                continue
            names = [weights.name]
            if weights.suffix == ".json":
                index = json.loads(weights.read_text(encoding="utf-8"))
                names += sorted(set(index["weight_map"].values()))
            return found + [Path(str(cached_file(path, n, token=token or None))) for n in names]
        raise UserError(f"{option}: {path} holds none of {', '.join(WEIGHT_NAMES)}")


@contextlib.contextmanager
def explained_errors(option: str, path: str) -> Iterator[None]:
    """Turn transformers' errors about a path into one line that names the option."""
    if not path:
        raise UserError(f"{option} is not set; give it in the file or with --options {option}=PATH")
    try:
        yield
    except ImportError as error:
        if "flash" in str(error).lower():
            raise UserError(MISSING_FLASH_ATTENTION) from error
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        if Path(path).is_dir():
            what = f"{path} is not a complete model folder: {_first_line(error)}"
        elif Path(path).exists():
            what = f"{path} is a file; give the folder that holds config.json"
        else:
            what = (
                f"no folder '{path}' in {Path.cwd()} or beside the configuration file, "
                "and no model of that name could be fetched from the hub"
            )
        raise UserError(f"{option}: {what}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep loading reports (such as the decoder's unused keys) and bars off the screen."""
    verbosity = transformers_logging.get_verbosity()
    has_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bar:
            transformers_logging.enable_progress_bar()
