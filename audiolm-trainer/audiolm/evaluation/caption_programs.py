"""Caption metrics that are other people's programs: METEOR, SPICE, SPIDEr-FL, FENSE.

In: tokenised captions. Out: a `Measure`. aac-metrics runs the programs; what they need is in
`metric_requirements.py`.
"""

import logging
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from audiolm.errors import UserError
from audiolm.evaluation.intervals import Measure, divide_sums, mean_of
from audiolm.evaluation.metric_requirements import DOWNLOAD_COMMAND, JAVA_METRICS, find_java


def measure_by_program(
    metric: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    options: dict[str, float],
) -> Measure:
    """A metric of `aac_metrics.functional`, clip by clip.

    METEOR's corpus figure is not a mean of its clips' figures: it keeps its value, and a resampled
    set of clips differs from it by as much as the mean of its clips does from that of all.

    Args:
        metric: its name there.
        hypotheses, references: texts whose tokens stand between spaces.
        options: further arguments.

    Raises:
        UserError: the program fails.
    """
    java = {"java_path": find_java()} if metric in JAVA_METRICS else {}
    try:
        with _silence():
            from aac_metrics import functional  # takes seconds, so not before there is a need

            corpus, clips = getattr(functional, metric)(hypotheses, references, **options, **java)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"{metric} could not be computed ({error}): run `{DOWNLOAD_COMMAND}` again"
        ) from error
    values = np.asarray(clips[metric], dtype=np.float64)
    measure = mean_of(values)
    offset = float(corpus[metric]) - measure.value
    return Measure(measure.rows, lambda sums: divide_sums(sums) + offset)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the log lines and warnings of other libraries off the user's screen."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
