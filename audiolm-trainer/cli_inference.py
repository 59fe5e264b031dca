"""Ask a trained model about audio files.

    python cli_inference.py --cfg-path ../configs/nano_eval.yaml
    python cli_inference.py --cfg-path X.yaml --wav a.wav --task asr
    python cli_inference.py --cfg-path X.yaml --wav a.wav --prompt "What can be heard?"

Without --wav it asks for a file and a prompt, again and again; `:quit` or the end of input leaves.
A prompt without `<SpeechHere>` has the audio before it; an empty one is the task's own (--task).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from audiolm.errors import UserError, run_command

if TYPE_CHECKING:  # torch is imported where it is used, so that --help answers at once
    from audiolm.audio.loading import LongAudioPolicy
    from audiolm.evaluation.answering import Answerer

QUIT = ":quit"


def main(arguments: Sequence[str]) -> int:
    """Answer once (--wav), or as long as the user asks; answers go to stdout."""
    args = build_parser().parse_args(arguments)
    if args.wav is None and args.prompt:
        raise UserError(f"--prompt {args.prompt!r} needs --wav; without it, prompts are asked for")

    from audiolm.config_file import load_config
    from audiolm.evaluation.answering import REQUIRED_PATHS, Answerer, build_prompt, load_clip
    from audiolm.models.device import choose_device
    from audiolm.prompts import PromptBook

    overrides = [*args.options, *([f"run.device={args.device}"] if args.device else [])]
    config = load_config(args.cfg_path, overrides, REQUIRED_PATHS)
    device = choose_device(config.run.device)
    long_audio: LongAudioPolicy = config.datasets.long_audio  # type: ignore[assignment]
    book = PromptBook.load(config.model.test_prompt_path)
    book.choices(args.task)
    if args.wav is None:
        answer_until_quit(Answerer.from_config(config, device), args.task, long_audio)
        return 0
    build_prompt(book, args.prompt, args.task)  # mistakes show before a model is loaded
    load_clip(args.wav, long_audio)
    print(Answerer.from_config(config, device).answer(args.wav, args.prompt, args.task))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg-path", required=True, help="YAML configuration file")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; wins over run.device")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    parser.add_argument("--wav", help="audio file: answer once and leave")
    parser.add_argument("--prompt", default="", help="with --wav: free text; default: the task's")
    parser.add_argument("--task", default="asr", help="whose prompt an empty one is (asr)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def answer_until_quit(answerer: Answerer, task: str, long_audio: LongAudioPolicy) -> None:
    """Ask for a file and a prompt until `:quit` or the end of input; mistakes are told on stderr.

    A file that cannot be used is told at once, before its prompt is asked for.
    """
    from audiolm.evaluation.answering import load_clip

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a path in another encoding is a mistake, no end
    print(f"an audio file and a prompt, again and again; {QUIT} leaves")
    while (wav := ask("wav")) is not None:
        try:
            load_clip(wav, long_audio)
            prompt = ask(f"prompt (empty: {task})")
            if prompt is None:
                return
            print(answerer.answer(wav, prompt, task), flush=True)
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def ask(question: str) -> str | None:
    """What the user types, outer space and quotes removed; None when they leave."""
    try:
        line = input(f"{question}: ").strip()
    except EOFError:
        print()
        return None
    if len(line) > 1 and line[0] == line[-1] and line[0] in "'\"":
        line = line[1:-1]  # as terminals paste a file that is dropped on them
    return None if line == QUIT else line


if __name__ == "__main__":
    run_command(main)
