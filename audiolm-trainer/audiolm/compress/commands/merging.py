"""`merge`: the adapter goes into the LLM."""

import argparse
from typing import Any

from audiolm.compress.commands.model_options import (
    add_model_command,
    add_tolerances,
    open_config,
)
from audiolm.data.commands.shared import Result


def add_parser(verbs: Any) -> None:
    """The verb and its options."""
    parser = add_model_command(
        verbs,
        "merge",
        run,
        "add the adapter into the LLM",
        "Add the adapter into the LLM. Writes an ordinary LLM folder with tokenizer (llm/), the "
        "other trained weights (connector.pth) and a configuration for both (config.yaml), after "
        "the written model was compared with the original on the calibration clips.",
    )
    add_tolerances(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Merge, compare, write."""
    config = open_config(arguments)
    from audiolm.compress.calibration import load_calibration
    from audiolm.compress.merging import Tolerances, merge

    clips = load_calibration(config, arguments.calibration, arguments.prefix, arguments.num_clips)
    tolerances = Tolerances(arguments.tolerance, arguments.text_tolerance)
    drift = merge(
        config, clips, arguments.output,
        dtype=arguments.dtype, tolerances=tolerances, overwrite=arguments.overwrite,
    )  # fmt: skip
    return Result([*drift.lines, f"wrote {arguments.output}"])
