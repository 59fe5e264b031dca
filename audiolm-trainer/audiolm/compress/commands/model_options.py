"""Options that every verb has: the model, the clips it is tried on, the output."""

import argparse
from typing import Any

from audiolm.config import Config
from audiolm.data.commands.shared import Run, add_command, add_output, add_prefix, read_count
from audiolm.errors import UserError


def add_model_command(
    verbs: Any, name: str, run: Run, summary: str, details: str
) -> argparse.ArgumentParser:
    """A subcommand with the options that all verbs share."""
    parser = add_command(verbs, name, run, summary, details)
    parser.add_argument(
        "--cfg-path", required=True, metavar="YAML", help="configuration of the trained model"
    )
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="a.b=c", help="overrides of the configuration"
    )
    parser.add_argument(
        "--calibration", required=True, metavar="ANN", help="annotation of the clips to try it on"
    )
    add_prefix(parser)
    parser.add_argument(
        "--num-clips", type=read_count, default=8, metavar="N", help="the first N of its clips"
    )
    add_output(parser, "folder to write", metavar="DIR")
    return parser


def add_tolerances(parser: argparse.ArgumentParser) -> None:
    """How much may change when the adapter goes into the LLM, and the type it is stored in."""
    parser.add_argument(
        "--dtype",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help="number type of the LLM's file; auto: that of the base LLM's file",
    )
    parser.add_argument(
        "--tolerance",
        type=read_share,
        metavar="X",
        help="how far a logit may move, as a share of the largest (fp32 1e-4, fp16 1e-2, bf16 "
        "5e-2 when not given)",
    )
    parser.add_argument(
        "--text-tolerance",
        type=read_share,
        default=0.0,
        metavar="X",
        help="share of the clips whose greedy answer may change",
    )


def read_share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def open_config(arguments: argparse.Namespace) -> Config:
    """The configuration, with what the model reads in place and its LLM not quantised.

    Raises:
        UserError: a mistake in it; or the output is there already.
    """
    from audiolm.config_file import load_config
    from audiolm.data.outputs import check_output

    check_output(arguments.output, overwrite=arguments.overwrite, sources=[arguments.cfg_path])
    required = ["model.llama_path", "model.whisper_path", "model.test_prompt_path"]
    config = load_config(arguments.cfg_path, arguments.options, required)
    model = config.model
    if model.low_resource or model.quantization != "none":
        name = "low_resource: true" if model.low_resource else f"quantization: {model.quantization}"
        raise UserError(
            f"model.{name}: rounded weights cannot be changed without rounding them again; give "
            "--options model.quantization=none model.low_resource=false to work on the LLM's own "
            "file"
        )
    if model.only_preprocessor:
        raise UserError("model.only_preprocessor: true has no LLM; set it to false")
    return config
