"""`prune`: the least important layers go."""

import argparse
from typing import Any

from audiolm.compress.commands.model_options import add_model_command, open_config
from audiolm.data.commands.shared import Result, read_count


def add_parser(verbs: Any) -> None:
    """The verb and its options."""
    parser = add_model_command(
        verbs,
        "prune",
        run,
        "drop the least important layers of the LLM or of Whisper",
        "Measure every layer on the calibration clips, which need texts, and drop those that do "
        "least. Writes the smaller model's folder (llm/ or whisper/), what was trained "
        "(checkpoint.pth), a configuration to train on from there (heal.yaml) and the "
        "measurements (importance.json).",
    )
    parser.add_argument(
        "--part", required=True, choices=["llm", "whisper"], help="whose layers are dropped"
    )
    parser.add_argument(
        "--num-layers", type=read_count, required=True, metavar="N", help="layers to drop"
    )
    parser.add_argument(
        "--by",
        choices=["influence", "loss"],
        default="influence",
        help="drop those with the least block influence, or with the lowest loss without them",
    )


def run(arguments: argparse.Namespace) -> Result:
    """Measure, drop, write."""
    config = open_config(arguments)
    from audiolm.compress.calibration import load_calibration
    from audiolm.compress.pruning import prune

    clips = load_calibration(
        config, arguments.calibration, arguments.prefix, arguments.num_clips, require_text=True
    )
    pruned = prune(
        config,
        clips,
        arguments.output,
        part=arguments.part,
        num_dropped=arguments.num_layers,
        measure=arguments.by,
        overwrite=arguments.overwrite,
    )
    return Result([*pruned.lines, f"wrote {arguments.output}"])
