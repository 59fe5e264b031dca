"""A page in the browser that answers questions about audio, uploaded or recorded.

    python web_demo.py                                   # what the quickstart trained
    python web_demo.py --cfg-path X.yaml --options model.ckpt=Y.pth
    python web_demo.py --cfg-path X.yaml Y.yaml --runs outputs --device cuda:0 --port 8080

The page is at http://127.0.0.1:7860 and reached from this machine alone; --host 0.0.0.0 opens it to
the network, --share to the internet. It offers each configuration with every checkpoint of the
--runs folders that fits it, or with the one that the configuration names. One model is in memory
at a time, and requests are answered one after the other.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from audiolm.errors import UserError, run_command

if TYPE_CHECKING:  # torch and gradio are imported where they are used: --help answers at once
    from audiolm.evaluation.demo_page.layout import Page

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = ROOT / "configs" / "nano_eval.yaml"
DEFAULT_RUNS = (ROOT / "demo" / "runs", ROOT / "outputs")
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7860
MAX_UPLOAD_MB = 100
MAX_UPLOAD_SECONDS = 600.0


def main(arguments: Sequence[str]) -> int:
    """Load the first model and serve the page until Ctrl-C."""
    args = build_parser().parse_args(arguments)
    check_gradio()  # before anything slow
    with private_upload_folder():
        serve(build_page(args), args)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cfg-path", nargs="+", default=[DEFAULT_CONFIG], help="YAML configuration file(s)"
    )
    parser.add_argument(
        "--runs", nargs="+", default=[*DEFAULT_RUNS], help="folders with training runs"
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; wins over run.device")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    parser.add_argument("--host", default=DEFAULT_HOST, help=f"address ({DEFAULT_HOST})")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"port ({DEFAULT_PORT})")
    parser.add_argument(
        "--share", action="store_true", help="a public link through gradio's tunnel"
    )
    parser.add_argument(
        "--max-upload-mb", type=int, default=MAX_UPLOAD_MB, help=f"of a file ({MAX_UPLOAD_MB})"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=MAX_UPLOAD_SECONDS,
        help=f"length of a file ({MAX_UPLOAD_SECONDS:g}); 30 s of it are heard",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def build_page(args: argparse.Namespace) -> Page:
    """Find the models, load the first, lay the page out.

    Raises:
        UserError: a configuration, a checkpoint or a device that cannot be used.
    """
    if args.cfg_path == [DEFAULT_CONFIG] and not (ROOT / "demo" / "stack").is_dir():
        raise UserError(
            "the nano model of the page's default is not there: run ./scripts/quickstart.sh, or "
            "name a configuration with --cfg-path"
        )
    from audiolm.evaluation.demo_page.catalogue import list_choices
    from audiolm.evaluation.demo_page.desk import ModelDesk
    from audiolm.evaluation.demo_page.handlers import PageHandlers, list_examples
    from audiolm.evaluation.demo_page.layout import Page

    overrides = [*args.options, *([f"run.device={args.device}"] if args.device else [])]
    desk = ModelDesk(list_choices(args.cfg_path, overrides, args.runs))
    desk.take(desk.first.name)  # mistakes show before the page is there
    return Page(PageHandlers(desk, list_examples(desk.first.config), args.max_seconds))


def serve(page: Page, args: argparse.Namespace, *, is_waiting: bool = True) -> str:
    """Serve the page, and wait for its end. Returns its address."""
    from audiolm.evaluation.demo_page.layout import CSS, THEME

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # the address shows in a log file, too
    _, address, _ = page.blocks.launch(
        server_name=args.host,
        server_port=args.port,
        share=args.share,
        max_file_size=f"{args.max_upload_mb}mb",
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=THEME,
        css=CSS,
        prevent_thread_lock=not is_waiting,
        quiet=not is_waiting,
    )
    return address


@contextmanager
def private_upload_folder() -> Iterator[Path]:
    """A folder for uploads that only this user reads, and that is gone when the page ends."""
    folder = Path(tempfile.mkdtemp(prefix="audiolm-page-"))
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    handler = signal.signal(signal.SIGTERM, leave)
    try:
        yield folder
    finally:
        signal.signal(signal.SIGTERM, handler)
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("GRADIO_TEMP_DIR")
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before


def leave(number: int, frame: FrameType | None) -> None:
    """End as on Ctrl-C, so that what is to be removed is removed."""
    sys.exit(128 + number)


def check_gradio() -> None:
    """Raise a `UserError` when gradio is not installed."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the demo page needs gradio, which cannot be imported ({error}); "
            "run: pip install gradio (or all of it: pip install -r requirements.txt)"
        ) from error


if __name__ == "__main__":
    run_command(main)
