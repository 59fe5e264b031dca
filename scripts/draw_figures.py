"""Draw the figures in img/ from the code's own constants, option defaults and configurations.

    python scripts/draw_figures.py               # writes every figure, in English and Korean
    python scripts/draw_figures.py --check       # exit status 1 when a file is out of date
    python scripts/draw_figures.py --only windowing

In: option defaults (`audiolm.config`), constants of the modules' sources, the files of configs/,
and the memory plan of `train.py --plan`. Out: `img/NAME.svg` and `img/NAME.ko.svg`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from audiolm.errors import run_command
from scripts.figures.architecture import draw_architecture
from scripts.figures.memory import draw_memory
from scripts.figures.pareto import draw_pareto
from scripts.figures.stages import draw_stages
from scripts.figures.windowing import draw_windowing
from scripts.figures.wording import LANGUAGES, Say, choose_texts

ROOT = Path(__file__).resolve().parents[1]
FIGURES: dict[str, Callable[[Say], str]] = {
    "architecture": draw_architecture,
    "windowing": draw_windowing,
    "stages": draw_stages,
    "memory": draw_memory,
    "pareto": draw_pareto,
}


def main(arguments: Sequence[str]) -> int:
    """Write the figures, or compare them with the files that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--only", choices=FIGURES, nargs="+", default=[*FIGURES], help="figures")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "img", help="folder")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    num_stale = 0
    for name in options.only:
        for language in LANGUAGES:
            path = options.output / name_file(name, language)
            drawing = FIGURES[name](choose_texts(language))
            if not options.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(drawing, encoding="utf-8")
                print(path)
            elif not path.is_file() or path.read_text(encoding="utf-8") != drawing:
                num_stale += 1
                print(f"{path} is out of date: run scripts/draw_figures.py", file=sys.stderr)
    return 1 if num_stale else 0


def name_file(name: str, language: str) -> str:
    """`memory.svg`, `memory.ko.svg`."""
    return f"{name}.svg" if language == LANGUAGES[0] else f"{name}.{language}.svg"


if __name__ == "__main__":
    run_command(main)
