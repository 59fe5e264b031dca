"""A page in the browser that answers prompts about audio, uploaded or recorded.

    python web_demo.py --cfg-path ../configs/nano_eval.yaml
    python web_demo.py --cfg-path X.yaml --device cuda:0 --port 8080

The page is at http://127.0.0.1:7860 and reached from this machine alone; --host 0.0.0.0 opens it to
the network, --share to the internet. Requests are answered one after the other.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm.errors import UserError, run_command

if TYPE_CHECKING:  # torch and gradio are imported where they are used: --help answers at once
    from audiolm.evaluation.answering import Answerer

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7860
MAX_UPLOAD_SIZE = "100mb"
FORGET_SECONDS = 3600  # uploads older than this are deleted, looked for as often


def main(arguments: Sequence[str]) -> int:
    """Load the model and serve the page until Ctrl-C."""
    args = build_parser().parse_args(arguments)
    import_gradio()  # before anything slow

    from audiolm.config_file import load_config
    from audiolm.evaluation.answering import REQUIRED_PATHS, Answerer
    from audiolm.models.device import choose_device

    overrides = [*args.options, *([f"run.device={args.device}"] if args.device else [])]
    config = load_config(args.cfg_path, overrides, REQUIRED_PATHS)
    answerer = Answerer.from_config(config, choose_device(config.run.device))
    page = build_page(answerer)
    page.launch(
        server_name=args.host,
        server_port=args.port,
        share=args.share,
        max_file_size=MAX_UPLOAD_SIZE,
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg-path", required=True, help="YAML configuration file")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; wins over run.device")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    parser.add_argument("--host", default=DEFAULT_HOST, help=f"address ({DEFAULT_HOST})")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"port ({DEFAULT_PORT})")
    parser.add_argument(
        "--share", action="store_true", help="a public link through gradio's tunnel"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def build_page(answerer: Answerer) -> Any:
    """The page: its inputs are those of `answer_request`, in its order. Returns a gradio block."""
    from audiolm.evaluation.answering import DEFAULT_TASK

    gradio = import_gradio()
    tasks = list(answerer.tasks)
    return gradio.Interface(
        functools.partial(answer_request, answerer),
        inputs=[
            gradio.Audio(sources=["upload", "microphone"], type="filepath", label="Audio"),
            gradio.Dropdown(
                tasks, value=DEFAULT_TASK if DEFAULT_TASK in tasks else tasks[0], label="Task"
            ),
            gradio.Textbox(label="Prompt", placeholder="Empty: the task's own prompt"),
        ],
        outputs=gradio.Textbox(label="Answer"),
        title="audiolm",
        description="Upload or record audio, at most 30 s of it; choose a task or type a prompt.",
        api_name="answer",
        flagging_mode="never",
        analytics_enabled=False,
        delete_cache=(FORGET_SECONDS, FORGET_SECONDS),
    )


def answer_request(answerer: Answerer, audio_path: str | None, task: str, prompt: str) -> str:
    """What the page shows for its inputs.

    Raises:
        gradio.Error: a mistake of the user, as a message in the page; it names no server path.
    """
    gradio = import_gradio()
    if not audio_path:
        raise gradio.Error("no audio: upload a file or record one", print_exception=False)
    try:
        return answerer.ask(audio_path, prompt, task)
    except UserError as error:
        message = str(error).replace(str(audio_path), Path(audio_path).name)
        raise gradio.Error(message, print_exception=False) from error


def import_gradio() -> Any:
    """The gradio package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"the demo page needs gradio, which cannot be imported ({error}); "
            "run: pip install gradio (or all of it: pip install -r requirements.txt)"
        ) from error
    return gradio


if __name__ == "__main__":
    run_command(main)
