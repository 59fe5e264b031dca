"""Write a random Whisper folder, BEATs file and Llama folder, in the formats of the real ones.

    python scripts/make_nano_stack.py -o demo/stack --texts demo/corpus/texts.txt \
        --prompts audiolm-trainer/prompts/train_prompt.json --tasks asr audiocaption_v2

`--texts` holds one sentence per line; the tokenizer is trained on them, each behind a prompt of
`--tasks` in turn, so that prompts cost few tokens. A folder that already holds the same stack is
left as it is. With `--connector CONFIG` it also writes connector.pth: Q-Former, queries and
projector of that configuration's sizes, drawn by the same rule, to start the first stage from;
`--options` change the configuration, as in training (`model.audio_encoder=none`).
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from audiolm.config import ModelConfig
from audiolm.errors import UserError, run_command
from audiolm.prompts import PromptBook, apply_template

if TYPE_CHECKING:
    from audiolm.models.random_stack import StackPaths


def main(arguments: Sequence[str]) -> int:
    """Parse the command line, write the stack, say where it is."""
    options = build_parser().parse_args(arguments)
    if options.options and not options.connector:
        raise UserError("--options change the configuration of --connector; give that, too")
    texts_path = Path(options.texts)
    if not texts_path.is_file():
        raise UserError(
            f"--texts: no such file: {texts_path}; give a file with one sentence per line"
        )
    texts = [line for line in texts_path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        raise UserError(f"--texts: {texts_path} is empty; it should hold one sentence per line")

    prompts = read_prompts(options.prompts, options.tasks)
    texts = [
        f"{prompt}{text}" for prompt, text in zip(itertools.cycle(prompts), texts, strict=False)
    ]

    from audiolm.models.random_stack import STACK_SIZES, build_random_stack

    paths = build_random_stack(
        options.output_dir,
        STACK_SIZES[options.size],
        texts=texts,
        seed=options.seed,
        init=options.init,
    )
    for name, path in vars(paths).items():
        print(f"{name}: {path}")
    if options.connector:
        path = write_connector(paths, options.connector, options.options, options.seed)
        print(f"connector: {path}")
    return 0


def write_connector(
    paths: "StackPaths", config_path: str, overrides: Sequence[str], seed: int
) -> Path:
    """connector.pth beside the stack; the Q-Former's own default start learns far more slowly."""
    import torch

    from audiolm.config_file import load_config, plain_config
    from audiolm.models.checkpoint import read_checkpoint, save_checkpoint
    from audiolm.models.random_stack import initialise_by_fan_in
    from audiolm.models.salmonn import SALMONN

    out_path = paths.llama_path.parent / "connector.pth"
    options = [f"model.{name}={path}" for name, path in vars(paths).items()]
    config = load_config(config_path, [*options, *overrides, "model.ckpt="])
    if out_path.is_file():
        if overrides and read_checkpoint(out_path)["config"] != plain_config(config):
            raise UserError(
                f"--options: {out_path} was written for another configuration; give another folder "
                "(-o), or remove it"
            )
        return out_path
    torch.manual_seed(seed)
    model = SALMONN.from_config(config.model)
    assert model.speech_Qformer is not None
    assert model.speech_query_tokens is not None
    initialise_by_fan_in(model.speech_Qformer)
    initialise_by_fan_in(model.speech_llama_proj)
    torch.nn.init.normal_(model.speech_query_tokens)
    save_checkpoint(out_path, model, config=plain_config(config))
    return out_path


def read_prompts(paths: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """The templated prompts of the tasks in all prompt files; without files, one empty prompt."""
    prompts = [
        apply_template(ModelConfig.prompt_template, sentence) + "\n"
        for path in paths
        for task in tasks
        for sentence in PromptBook.load(path).choices(task)
    ]
    return prompts or [""]


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output-dir", required=True, help="folder to write")
    parser.add_argument("--texts", required=True, help="text file, one sentence per line")
    parser.add_argument("--prompts", nargs="+", default=[], help="prompt files (JSON)")
    parser.add_argument("--tasks", nargs="+", default=["asr"], help="tasks of the prompt files")
    parser.add_argument("--connector", help="training configuration to write connector.pth for")
    parser.add_argument(
        "--options", nargs="+", default=[], help="changes of that configuration: a.b=c"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (0)")
    parser.add_argument("--size", choices=("tiny", "nano", "midsize"), default="nano")
    parser.add_argument(
        "--init",
        choices=("fan_in", "default"),
        default="fan_in",
        help="fan_in can be trained from scratch; default is the libraries' std 0.02",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    run_command(main)
