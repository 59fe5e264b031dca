"""What the page does: a method per event, from plain values to plain values and HTML.

In: what the visitor chose. Out: what the components show next. A visitor's mistake, or the
machine's (out of memory), is a message in the page.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.config import Config
from audiolm.data.annotations import load_annotation, resolve_audio_path
from audiolm.errors import UserError
from audiolm.evaluation.demo_page.desk import ModelDesk, PageClip, take_clip
from audiolm.evaluation.demo_page.pictures import draw_clip, plan_grid
from audiolm.evaluation.demo_page.snippets import (
    Asked,
    Timing,
    show_error,
    show_history,
    show_note,
    show_timing,
)
from audiolm.evaluation.demo_page.wording import say
from audiolm.evaluation.memory import PeakMeter

FULL_SCALE = 32767
MAX_PROMPT_CHARACTERS = 4000


@dataclass(frozen=True)
class Example:
    """A clip of an annotation that the page offers.

    Attributes:
        label: as shown on its button.
        path: its audio file.
        task: what it is for.
        reference: its text.
    """

    label: str
    path: Path
    task: str
    reference: str


def list_examples(config: Config, num_each: int = 3) -> list[Example]:
    """The first clips of the configuration's two test annotations whose files are there."""
    datasets = config.datasets
    examples: list[Example] = []
    paths = [datasets.test_ann_path_asr, datasets.test_ann_path_aac]
    for annotation in dict.fromkeys(p or datasets.test_ann_path for p in paths):
        if not annotation or not Path(annotation).is_file():
            continue
        found = []
        for clip in load_annotation(annotation):
            path = resolve_audio_path(datasets.prefix, clip.path)
            is_plain = clip.offset is None and not clip.expand_wav and clip.stored is None
            if clip.texts and is_plain and path.is_file():
                label = f"{clip.task}: {clip.texts[0]}"
                found.append(Example(label, path, clip.task, " / ".join(clip.texts)))
            if len(found) == num_each:
                break
        examples += found
    return examples


class Heard(NamedTuple):
    """What the components show for a clip: its state, picture, message and figures."""

    clip: PageClip | None
    picture: str
    note: str
    timing: str


class Answered(NamedTuple):
    """What the components show while an answer grows, and at its end."""

    answer: str
    timing: str
    note: str
    history: list[Asked]
    history_table: str


class PageHandlers:
    """The page's events.

    Args:
        desk: the models.
        examples: offered clips.
        max_seconds: longest file that is taken.
    """

    def __init__(self, desk: ModelDesk, examples: Sequence[Example], max_seconds: float) -> None:
        self.desk = desk
        self.examples = list(examples)
        self.max_seconds = max_seconds

    def draw(self, model: str, clip: PageClip | None, language: str) -> str:
        """The clip's picture, or what is shown in its place.

        Raises:
            UserError: the model cannot be loaded.
        """
        if clip is None:
            return f'<p class="quiet">{say("no_picture", language)}</p>'
        samples = clip.waveform.samples
        labels = (
            say("waveform", language),
            say("log_mel", language),
            say("tokens", language),
            say("seconds", language),
        )
        grid = plan_grid(self.desk.take(model).model, len(samples))
        svg = draw_clip(samples, self.desk.log_mel(model)(samples), grid, labels)
        return f'<div class="scrolling">{svg}</div>'

    def take_audio(self, path: str | None, picked: int | None, model: str, language: str) -> Heard:
        """A file came, an example was picked, or the clip was taken away (no path)."""
        clip = None
        if not path:
            return Heard(None, self.draw(model, None, language), "", "")
        try:
            if picked is None:
                clip = take_clip(path, self.max_seconds)
            else:
                example = self.examples[picked]
                name, reference = example.path.name, example.reference
                clip = take_clip(example.path, self.max_seconds, name, reference)
            picture = self.draw(model, clip, language)
        except (UserError, RuntimeError) as error:
            note = show_error(str(error), language)
            return Heard(clip, self.draw(model, None, language), note, "")
        note = ""
        if clip.waveform.was_truncated:
            seconds = f"{clip.waveform.source_seconds:.1f}"
            note = show_note(say("truncated", language, name=clip.name, seconds=seconds))
        return Heard(clip, picture, note, show_timing(None, language, clip.reference))

    def take_example(self, index: int) -> tuple[int, tuple[int, np.ndarray], str]:
        """A button was pressed: its number, its audio for the player, its task."""
        example = self.examples[index]
        samples = take_clip(example.path, self.max_seconds).waveform.samples
        return index, (SAMPLE_RATE_HZ, np.round(samples * FULL_SCALE).astype("int16")), example.task

    def change_model(
        self, model: str, clip: PageClip | None, task: str, language: str
    ) -> tuple[list[str], str, str, str]:
        """Another model was chosen: its tasks, the one in use, the picture, the message."""
        try:
            tasks = list(self.desk.take(model).tasks)
            picture = self.draw(model, clip, language)
        except (UserError, RuntimeError) as error:
            note = show_error(str(error), language)
            return [task], task, self.draw(model, None, language), note
        return tasks, task if task in tasks else tasks[0], picture, ""

    def ask(
        self,
        model: str,
        clip: PageClip | None,
        task: str,
        prompt: str,
        history: list[Asked],
        language: str,
    ) -> Iterator[Answered]:
        """The answer as it grows, then its figures and a row of the history."""
        table = show_history(history, language)
        if clip is None:
            note = show_error(say("no_clip", language), language)
            yield Answered("", "", note, history, table)
            return
        text = ""
        try:
            for text, timing in self._answer(model, clip, task, prompt):
                if timing is None:
                    yield Answered(text, "", "", history, table)
                    continue
                row = Asked(clip.name, prompt.strip() or task, text, timing)
                history = [*history, row]
                table = show_history(history, language)
                figures = show_timing(timing, language, clip.reference)
                yield Answered(text, figures, "", history, table)
        except (UserError, RuntimeError) as error:  # torch's out-of-memory is a RuntimeError
            yield Answered(text, "", show_error(str(error), language), history, table)

    def _answer(
        self, model: str, clip: PageClip, task: str, prompt: str
    ) -> Iterator[tuple[str, Timing | None]]:
        """(text, None) as it grows, then (text, figures of this very request)."""
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise UserError(
                f"the question has {len(prompt)} characters; {MAX_PROMPT_CHARACTERS} are taken"
            )
        answerer = self.desk.take(model)
        answerer.plan_prompt(prompt, task)  # mistakes show before the clip is encoded
        meter = PeakMeter(answerer.device)
        started = time.perf_counter()
        heard, was_heard = self.desk.hear(model, clip)
        before_seconds = time.perf_counter() - started
        for reply in answerer.reply(heard, prompt, task):
            if not reply.is_last:
                yield reply.text, None
                continue
            memory = meter.read()
            peak = memory.gpu_peak_allocated_bytes or memory.process_peak_bytes
            yield (
                reply.text,
                Timing(
                    ttft_seconds=before_seconds + reply.ttft_seconds,
                    tpot_seconds=reply.tpot_seconds,
                    encode_seconds=None if was_heard else heard.encode_seconds,
                    num_audio_tokens=heard.num_audio_tokens,
                    num_new_tokens=reply.num_tokens,
                    peak_bytes=peak,
                ),
            )
