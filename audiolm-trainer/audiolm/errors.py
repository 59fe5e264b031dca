"""Users' mistakes: one exception type, and how a command line reports it.

A `UserError` is something the user can fix from its message alone: what is wrong, the value, what
is allowed, and where. Everything else that is raised is a defect of ours and keeps its traceback.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

BROKEN_PIPE_STATUS = 141  # 128 + SIGPIPE, as a shell counts


class UserError(ValueError):
    """Bad input: a path, an option, a file's content. The message is one line and names the fix."""


def run_command(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a script's `main(arguments)` and exit with its status.

    A `UserError` or an operating system error becomes one line on stderr and exit status 2;
    `--debug` among the arguments shows the traceback instead. Ctrl-C exits with 130, and nothing is
    said when whoever reads the output stops reading.
    """
    _quiet_the_screen()
    arguments = sys.argv[1:]
    is_debug = "--debug" in arguments
    try:
        status = main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = BROKEN_PIPE_STATUS
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except (UserError, OSError) as error:
        if is_debug:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        status = 2
    sys.stdout.flush()
    sys.exit(status)


def _quiet_the_screen() -> None:
    """Warnings for the user once, from the first process; none of our libraries' own affairs."""
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.WARNING if is_first else logging.ERROR, format="%(levelname)s: %(message)s"
    )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it mentions each optional kernel
    for module in ("transformers", "peft", "accelerate", "torch"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
