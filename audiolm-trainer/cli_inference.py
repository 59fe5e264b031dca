"""Ask a trained model about audio files.

    python cli_inference.py --cfg-path ../configs/nano_eval.yaml
    python cli_inference.py --cfg-path X.yaml --wav a.wav --task asr
    python cli_inference.py --cfg-path X.yaml --wav a.wav --prompt "What can be heard?" --json
    python cli_inference.py --cfg-path X.yaml --wav FOLDER_OR_LIST --task audiocaption_v2

Without --wav it asks for a file and a prompt, again and again; `:quit` or the end of input leaves.
A prompt without `<SpeechHere>` has the audio before it; an empty one is the task's own (--task).
--wav also takes a folder, a `.txt` with a path per line, or an annotation (`.json`, `.jsonl`).
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm.errors import UserError, run_command

if TYPE_CHECKING:  # torch is imported where it is used, so that --help answers at once
    from audiolm.audio.loading import LongAudioPolicy
    from audiolm.evaluation.answering import Answerer, HeardClip, Reply
    from audiolm.evaluation.questions import Question

QUIT, HELP, TASK = ":quit", ":help", ":task"
COMMANDS = f"""{QUIT}        leave
{HELP}        this list
{TASK}        the tasks and the one in use
{TASK} NAME   use another task's prompt where the prompt is empty
an empty wav asks about the last clip again, without encoding it anew"""
MAX_HISTORY_LINES = 1000


def main(arguments: Sequence[str]) -> int:
    """Answer what --wav names, or as long as the user asks; answers go to stdout."""
    args = build_parser().parse_args(arguments)
    check_flags(args)

    from audiolm.config_file import load_config
    from audiolm.evaluation.questions import (
        DEFAULT_TASK,
        REQUIRED_PATHS,
        is_single,
        list_questions,
    )
    from audiolm.prompts import PromptBook

    overrides = [*args.options, *([f"run.device={args.device}"] if args.device else [])]
    config = load_config(args.cfg_path, overrides, REQUIRED_PATHS)
    book = PromptBook.load(config.model.test_prompt_path)
    task = args.task or DEFAULT_TASK
    book.choices(task)
    # Mistakes show before a model is loaded, and before the seconds that its imports take.
    questions = []
    if args.wav is not None:
        questions = list_questions(args.wav, book, args.prompt, args.task, config.datasets.prefix)
        if is_single(args.wav):
            long_audio: LongAudioPolicy = config.datasets.long_audio  # type: ignore[assignment]
            questions[0].load(long_audio)

    from audiolm.evaluation.answering import Answerer
    from audiolm.models.device import choose_device

    answerer = Answerer.from_config(config, choose_device(config.run.device))
    if args.wav is None:
        with LineHistory():
            answer_until_quit(answerer, task)
        return 0
    if is_single(args.wav):
        show = print_json if args.json else print_answer
        show(answerer, questions[0], args.stream)
        return 0
    return answer_all(answerer, questions, args.json, args.stream)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg-path", required=True, help="YAML configuration file")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; wins over run.device")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    parser.add_argument("--wav", help="audio file, folder or list: answer and leave")
    parser.add_argument("--prompt", default="", help="with --wav: free text; default: the task's")
    parser.add_argument(
        "--task", default="", help="whose prompt an empty one is (asr; an annotation's own)"
    )
    parser.add_argument(
        "--json", action="store_true", help="with --wav: a JSON object per line, with timings"
    )
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=sys.stdout.isatty(),
        help="print answers token by token (default: on a terminal); beams come whole",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that need --wav and do not have it."""
    if args.wav is None and args.prompt:
        raise UserError(f"--prompt {args.prompt!r} needs --wav; without it, prompts are asked for")
    if args.wav is None and args.json:
        raise UserError("--json needs --wav: name a file, a folder or a list")


def answer_all(
    answerer: Answerer, questions: Sequence[Question], is_json: bool, is_streamed: bool
) -> int:
    """Answer a folder or a list, a line per clip: name, tab, answer. Returns the exit status.

    A clip that cannot be used is told on stderr (and in JSON), and the next one comes; then the
    status is 1.
    """
    num_failed = 0
    for question in questions:
        try:
            if is_json:
                print_json(answerer, question, is_streamed)
            else:
                print_answer(answerer, question, is_streamed, start=f"{question.name}\t")
        except UserError as error:
            num_failed += 1
            message = " ".join(str(error).split())
            print(f"error: {message}", file=sys.stderr, flush=True)
            if is_json:
                print(json.dumps({"path": question.name, "error": message}, ensure_ascii=False))
    if num_failed:
        print(f"{num_failed} of {len(questions)} clips could not be used", file=sys.stderr)
    return 1 if num_failed else 0


def print_answer(
    answerer: Answerer, question: Question, is_streamed: bool, *, start: str = ""
) -> None:
    """The answer as a line; inside a list's lines, tabs and line breaks become spaces."""
    from audiolm.evaluation.answering import grow

    clip = answerer.hear(question.load(answerer.long_audio))
    replies = answerer.reply(clip, question.prompt)
    print(start, end="", flush=is_streamed)
    for piece in grow(replies) if is_streamed else [list(replies)[-1].text]:
        text = " ".join(piece.splitlines()).replace("\t", " ") if start else piece
        print(text, end="", flush=is_streamed)
    print(flush=True)


def print_json(answerer: Answerer, question: Question, is_streamed: bool) -> None:
    """The answer and its timings as an object on a line; it is whole whatever `is_streamed` is."""
    waveform = question.load(answerer.long_audio)
    clip = answerer.hear(waveform)
    *_, last = answerer.reply(clip, question.prompt)
    row = {
        "path": question.name,
        "task": question.task or None,
        "prompt": question.prompt,
        **describe_reply(clip, last),
        "was_truncated": waveform.was_truncated,
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)


def describe_reply(clip: HeardClip, reply: Reply) -> dict[str, str | int | float | None]:
    """Text, lengths and times; TTFT has the encoding in it, as `evaluate_efficiency_salmonn.py`."""
    tpot = reply.tpot_seconds
    return {
        "text": reply.text,
        "audio_seconds": round(clip.source_seconds, 3),
        "num_audio_tokens": clip.num_audio_tokens,
        "num_tokens": reply.num_tokens,
        "ttft_ms": round(1000 * (clip.encode_seconds + reply.ttft_seconds), 2),
        "tpot_ms": None if tpot is None else round(1000 * tpot, 2),
        "encode_ms": round(1000 * clip.encode_seconds, 2),
    }


def answer_until_quit(answerer: Answerer, task: str) -> None:
    """Ask for a file and a prompt until `:quit` or the end of input; mistakes are told on stderr.

    A file that cannot be used is told at once, before its prompt is asked for. Ctrl-C during an
    answer ends that answer alone.
    """
    from audiolm.evaluation.answering import grow

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a path in another encoding is a mistake, no end
    print(f"an audio file and a prompt, again and again; {QUIT} leaves, {HELP} tells more")
    clip: HeardClip | None = None
    while (wav := ask("wav")) is not None:
        try:
            if wav.startswith(":"):
                task = obey(answerer, wav, task)
                continue
            if wav or clip is None:
                clip = answerer.hear(answerer.load(wav))
            prompt = ask(f"prompt (empty: {task})")
            if prompt is None:
                return
            for piece in grow(answerer.reply(clip, prompt, task)):
                print(piece, end="", flush=True)
            print(flush=True)
        except KeyboardInterrupt:
            print(f"\nstopped; {QUIT} leaves", file=sys.stderr, flush=True)
        except (UserError, RuntimeError) as error:  # torch's out-of-memory is a RuntimeError
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def obey(answerer: Answerer, command: str, task: str) -> str:
    """`:help` or `:task`: print what it asks for. Returns the task from now on.

    Raises:
        UserError: no such task, no such command.
    """
    word, _, name = command.partition(" ")
    name = name.strip()
    if word == HELP:
        print(COMMANDS)
    elif word != TASK:
        raise UserError(f"{word}: no such command; {HELP} lists them")
    elif name:
        answerer.prompts.choices(name)
        return name
    else:
        print(f"in use: {task}; there are: {', '.join(answerer.tasks)}")
    return task


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


class LineHistory:
    """Arrow keys and path completion at the questions, and lines of earlier times.

    They are kept in `$XDG_STATE_HOME/audiolm/history`. Where that cannot be read or written, or
    Python has no readline, the questions work without.
    """

    def __init__(self) -> None:
        state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        self.path = Path(state) / "audiolm" / "history"

    def __enter__(self) -> LineHistory:
        if not sys.stdin.isatty():
            return self
        try:
            import readline
        except ImportError:  # as on Windows
            return self
        readline.set_history_length(MAX_HISTORY_LINES)
        readline.set_completer_delims("")
        readline.set_completer(complete_path)
        readline.parse_and_bind("tab: complete")
        with contextlib.suppress(OSError):  # none yet
            readline.read_history_file(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        if not sys.stdin.isatty() or "readline" not in sys.modules:
            return
        import readline

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(self.path)
        except OSError as error:
            print(f"the lines typed are not kept: {error}", file=sys.stderr)


def complete_path(text: str, state: int) -> str | None:
    """The `state`th path that continues what is typed, for readline."""
    found = sorted(glob.glob(glob.escape(os.path.expanduser(text)) + "*"))
    shown = [path + os.sep if os.path.isdir(path) else path for path in found]
    return shown[state] if state < len(shown) else None


if __name__ == "__main__":
    run_command(main)
