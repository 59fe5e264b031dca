"""How long a model takes to answer, and how much memory it needs.

In: a loaded model, clips, a prompt. Out, per clip and batch size: times of repeated answers, peak
memory by phase, and what the machine's own limits make of them. What the phases are: `workload.py`.

Each case is answered in three ways, in this order: timed again and again; once with the memory
counters reset at each phase; once with every operation counted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from audiolm.audio.features import LogMel
from audiolm.errors import UserError
from audiolm.evaluation.memory import MemoryUse, PeakMeter
from audiolm.evaluation.phase_memory import PhaseMemory
from audiolm.evaluation.roofline import count_operations
from audiolm.evaluation.timing import Answer, IterationKind, Warmup, repeat_answers
from audiolm.evaluation.timing_clip import TimingClip
from audiolm.evaluation.workload import Outcome, Workload
from audiolm.models.device import choose_device
from audiolm.models.salmonn import SALMONN

TIMED_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Repetition:
    """How often to answer, and how much.

    Raises:
        UserError: a count that is too small.
    """

    num_it: int = 100
    num_warmup: int = 10
    num_new_tokens: int = 64
    batch_sizes: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        checks = [
            ("num_it", self.num_it, 1, ""),
            ("num_warmup", self.num_warmup, 0, ""),
            ("new_tokens", self.num_new_tokens, 2, ": TPOT is the time between two tokens"),
            *(("batch_sizes", size, 1, "") for size in self.batch_sizes),
        ]
        for name, value, minimum, reason in checks:
            if value < minimum:
                raise UserError(f"--{name} {value}: give {minimum} or more{reason}")


@dataclass(frozen=True)
class Case:
    """A clip, and how many copies of it are answered together."""

    clip: TimingClip
    batch_size: int


@dataclass(frozen=True)
class Efficiency:
    """All that was measured of a case.

    Attributes:
        iterations: every answer in order (cold, warm-up, measured).
        outcome: of the last answer.
        memory: peak of all timed answers, without the loading.
        phase_memory: peak of each phase of one more answer.
        counts: operations and bytes of each phase of one more answer.
    """

    case: Case
    iterations: list[tuple[IterationKind, Answer]]
    outcome: Outcome
    memory: MemoryUse
    phase_memory: dict[str, MemoryUse]
    counts: dict[str, dict[str, int]]


@dataclass(frozen=True)
class FailedCase:
    """A case that could not be measured, and why."""

    case: Case
    reason: str


@dataclass(frozen=True)
class Question:
    """What is asked of which model, whatever the clip.

    `prompt` is templated and holds `<SpeechHere>` once; an empty `end_text` is the model's own;
    `keeps_prefix` and `is_compiled` as in `Workload`.
    """

    model: SALMONN
    log_mel: LogMel
    prompt: str
    end_text: str = ""
    keeps_prefix: bool = False
    is_compiled: bool = False

    def ask(self, case: Case, num_new_tokens: int) -> Workload:
        """The question about one clip."""
        return Workload(
            self.model,
            self.log_mel,
            case.clip.samples,
            self.prompt,
            num_new_tokens=num_new_tokens,
            batch_size=case.batch_size,
            end_text=self.end_text,
            keeps_prefix=self.keeps_prefix,
            is_compiled=self.is_compiled,
            read=case.clip.read if case.clip.path else None,
        )


def list_cases(clips: Iterable[TimingClip], batch_sizes: Sequence[int]) -> list[Case]:
    """Every clip with every batch size."""
    return [Case(clip, batch_size) for clip in clips for batch_size in batch_sizes]


def measure_efficiency(
    question: Question,
    case: Case,
    repetition: Repetition,
    progress: Callable[[IterationKind], None] = lambda kind: None,
) -> Efficiency:
    """Answer again and again; `progress` is told of each timed answer."""
    workload = question.ask(case, repetition.num_new_tokens)
    meter = PeakMeter(workload.device)
    warmup = Warmup(repetition.num_warmup)
    iterations = repeat_answers(workload.answer, warmup, repetition.num_it, progress)
    memory = meter.read()
    phases = PhaseMemory(workload.device)
    workload.observe(phases)
    assert workload.outcome is not None
    outcome = workload.outcome
    return Efficiency(case, iterations, outcome, memory, phases.uses, count_operations(workload))


def measure_cases(
    question: Question,
    cases: Sequence[Case],
    repetition: Repetition,
    progress: Callable[[IterationKind], None] = lambda kind: None,
) -> list[Efficiency | FailedCase]:
    """One case after the other; one that a GPU has no memory for does not stop the others."""
    found: list[Efficiency | FailedCase] = []
    for case in cases:
        try:
            found.append(measure_efficiency(question, case, repetition, progress))
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            found.append(FailedCase(case, f"out of memory: {reason}"))
            torch.cuda.empty_cache()
    return found


def choose_timed_device(name: str) -> torch.device:
    """`choose_device`, restricted to devices whose work can be waited for.

    Raises:
        UserError: an unknown or absent device, or one that is neither CPU nor CUDA GPU.
    """
    device = choose_device(name)
    if device.type not in TIMED_DEVICES:
        raise UserError(f"run.device: {name}: only cpu and cuda can be timed")
    return device
