"""`export`: everything a trained model needs, in one folder."""

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
        "export",
        run,
        "one folder that holds all of a model, without adapter",
        "Merge as `merge` does, and add all else that the model needs: whisper/, beats.pt, "
        "prompts/. config.yaml names them relative to its folder.",
    )
    add_tolerances(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Collect, merge, compare, write."""
    config = open_config(arguments)
    from audiolm.compress.calibration import load_calibration
    from audiolm.compress.exporting import export
    from audiolm.compress.merging import Tolerances

    clips = load_calibration(config, arguments.calibration, arguments.prefix, arguments.num_clips)
    tolerances = Tolerances(arguments.tolerance, arguments.text_tolerance)
    drift = export(
        config, clips, arguments.output,
        dtype=arguments.dtype, tolerances=tolerances, overwrite=arguments.overwrite,
    )  # fmt: skip
    return Result([*drift.lines, f"wrote {arguments.output}"])
