"""Prompts by task: which sentence goes around a clip's audio.

In: a JSON of `task -> list of sentences` (training: one is drawn per sample) or
`task -> sentence` (evaluation: always that one), as SALMONN's prompt files. Out: prompt strings
that hold `<SpeechHere>` exactly once, where the audio is spliced in; `{}` becomes the question.
"""

import difflib
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audiolm.errors import UserError
from audiolm.json_file import load_json

SPEECH_MARKER = "<SpeechHere>"
PLACEHOLDER = "{}"

logger = logging.getLogger(__name__)


class PromptBook:
    """Sentences by task. Build it with `PromptBook.load`."""

    def __init__(self, sentences: Mapping[str, Sequence[str]], source: str) -> None:
        self._sentences = {task: tuple(choices) for task, choices in sentences.items()}
        self._source = source

    @classmethod
    def load(cls, path: str | Path) -> "PromptBook":
        """Read a prompt file.

        A training sentence (an entry of a list) without the marker is left out with a warning;
        a task must keep at least one. An evaluation sentence (a plain string) must hold it.

        Raises:
            UserError: unreadable file, wrong structure, a task without a usable sentence.
        """
        content = load_json(path, "prompt file")
        if not isinstance(content, dict) or not content:
            raise UserError(
                f'prompt file {path} must be a non-empty object like {{"asr": ["..."]}}, '
                f"not {_describe(content)}"
            )
        sentences: dict[str, list[str]] = {}
        num_skipped = 0
        for task, value in content.items():
            choices = [value] if isinstance(value, str) else value
            if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
                raise UserError(
                    f"prompt file {path}, task {task!r}: expected a sentence or a list of "
                    f"sentences, not {_describe(value)}"
                )
            sentences[task] = [text for text in choices if text.count(SPEECH_MARKER) == 1]
            num_skipped += len(choices) - len(sentences[task])
            if not sentences[task]:
                raise UserError(
                    f"prompt file {path}, task {task!r}: no sentence holds {SPEECH_MARKER} exactly "
                    f"once; write it where the audio belongs: <Speech>{SPEECH_MARKER}</Speech> ..."
                )
        if num_skipped:
            logger.warning(
                "prompt file %s: skipped %d sentence(s) that do not hold %s exactly once",
                path,
                num_skipped,
                SPEECH_MARKER,
            )
        return cls(sentences, str(path))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in the file's order."""
        return tuple(self._sentences)

    def choices(self, task: str) -> tuple[str, ...]:
        """Every sentence of a task, `{}` not yet filled.

        Raises:
            UserError: the file has no such task.
        """
        if task not in self._sentences:
            near = difflib.get_close_matches(task, self._sentences, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(
                f"no prompt for task {task!r} in {self._source}: {hint}"
                f"tasks there: {', '.join(sorted(self._sentences))}"
            )
        return self._sentences[task]

    def draw(self, task: str, question: str, generator: random.Random) -> str:
        """One of the task's sentences at random, its `{}` filled with the question."""
        return fill_question(generator.choice(self.choices(task)), question)

    def first(self, task: str, question: str) -> str:
        """The task's first sentence, as evaluation uses it, its `{}` filled with the question."""
        return fill_question(self.choices(task)[0], question)


def fill_question(sentence: str, question: str) -> str:
    """Put the question where the sentence has `{}`; braces inside the question stay as they are."""
    return sentence.replace(PLACEHOLDER, question)


def apply_template(template: str, prompt: str) -> str:
    """Put a prompt into the chat template, such as `"USER: {}\\nASSISTANT:"`.

    Raises:
        UserError: the template does not hold `{}` exactly once.
    """
    if template.count(PLACEHOLDER) != 1:
        raise UserError(
            f"prompt_template {template!r} must hold {PLACEHOLDER} exactly once, "
            r"such as 'USER: {}\nASSISTANT:'"
        )
    return template.replace(PLACEHOLDER, prompt)


def split_at_marker(prompt: str) -> tuple[str, str]:
    """The text before and after `<SpeechHere>`.

    Raises:
        UserError: the prompt does not hold the marker exactly once.
    """
    num_markers = prompt.count(SPEECH_MARKER)
    if num_markers != 1:
        raise UserError(
            f"prompt {prompt!r} holds {SPEECH_MARKER} {num_markers} times; it must hold it exactly "
            f"once, where the audio belongs: <Speech>{SPEECH_MARKER}</Speech> ..."
        )
    before, after = prompt.split(SPEECH_MARKER)
    return before, after


def draw_prompts(
    book: PromptBook | None,
    samples: Mapping[str, Any],
    template: str,
    generator: random.Random,
    *,
    per_sample: bool = True,
) -> list[str]:
    """Templated training prompts of a batch.

    Args:
        book: training prompts; None when no file was configured.
        samples: a batch with lists `task` and `Q` of equal length. If it has them, draws come
            from the seeds in it, not from `generator`: the list `draw_seed`, a text per sample
            (`AudioDataset` gives seed/epoch/position), and the text `step_seed` (`ClipBatches`
            gives seed/epoch/step). So prompts do not depend on how a step is split.
        template: see `apply_template`.
        generator: source of the draws for samples without seeds.
        per_sample: draw for each sample, by `draw_seed`; False: once per task in an optimiser
            step, by `step_seed` and the task (without it, once per task in the batch).

    Raises:
        UserError: no book, or it lacks a task.
    """
    if book is None:
        raise UserError("no training prompts: set model.prompt_path to a prompt file")
    drawn: dict[str, str] = {}
    prompts = []
    for position, (task, question) in enumerate(zip(samples["task"], samples["Q"], strict=True)):
        if per_sample or task not in drawn:
            seed = _find_seed(samples, position, task, per_sample)
            source = generator if seed is None else random.Random(seed)
            drawn[task] = source.choice(book.choices(task))
        prompts.append(apply_template(template, fill_question(drawn[task], question)))
    return prompts


def _find_seed(
    samples: Mapping[str, Any], position: int, task: str, per_sample: bool
) -> str | None:
    """What a prompt's draw depends on, if the batch says it."""
    if per_sample:
        seeds = samples.get("draw_seed")
        return None if seeds is None else f"prompt/{seeds[position]}"
    step_seed = samples.get("step_seed")
    return None if step_seed is None else f"prompt/{step_seed}/{task}"


def _describe(value: Any) -> str:
    if value in ([], {}):
        return "an empty one"
    names = {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), repr(value))
