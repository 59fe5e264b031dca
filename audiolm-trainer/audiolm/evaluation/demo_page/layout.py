"""The page's components, and which event calls which handler.

In: `PageHandlers`. Out: a gradio `Blocks`. Nothing here or in the theme is fetched from elsewhere.
"""

from typing import Any

import gradio as gr
from gradio import themes

from audiolm.evaluation.demo_page.handlers import PageHandlers
from audiolm.evaluation.demo_page.snippets import show_history
from audiolm.evaluation.demo_page.wording import LANGUAGES, choose_language, say
from audiolm.evaluation.questions import DEFAULT_TASK

MAX_WAITING = 32  # requests in the queue; more are told to come later
FORGET_CHECK_SECONDS, FORGET_SECONDS = 60, 600  # how often, and how old an upload may get
SESSION_SECONDS = 3600  # a visitor's clip and history are kept this long
MODEL_QUEUE = "model"  # what needs the model waits in one line

THEME = themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "Noto Sans KR", "Noto Sans CJK KR", "Malgun Gothic", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
)
CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto !important}
#title h1 {margin: 0; font-size: 1.7em} #title p {margin: 4px 0 0; opacity: .8}
#model input {text-overflow: ellipsis; padding-right: 36px}
#language .wrap {flex-wrap: nowrap}
.note {border: 1px solid var(--border-color-primary); border-left: 4px solid var(--color-accent);
  background: var(--background-fill-secondary); border-radius: 8px; padding: 10px 14px;
  color: var(--body-text-color); overflow-wrap: anywhere}
.note.error {border-left-color: #dc2626} .note.error b {color: #dc2626; margin-right: 6px}
.dark .note.error b {color: #f87171}
.chips {display: flex; flex-wrap: wrap; gap: 8px}
.chips span {background: var(--background-fill-secondary); color: var(--body-text-color-subdued);
  border: 1px solid var(--border-color-primary); border-radius: 999px; padding: 3px 12px;
  font-size: .86em; white-space: nowrap}
.chips b {color: var(--body-text-color); font-variant-numeric: tabular-nums}
.reference {margin-top: 10px; color: var(--body-text-color)} .reference b {margin-right: 6px}
.quiet {color: var(--body-text-color-subdued); margin: 6px 0}
.scrolling, .history {overflow-x: auto; max-width: calc(100vw - 96px)}
.clip-picture {width: 100%; min-width: 620px; display: block}
.clip-picture text {fill: var(--body-text-color-subdued); font-size: 13px}
.clip-picture .wave {fill: var(--color-accent)}
.clip-picture .tick {stroke: var(--body-text-color-subdued)}
.clip-picture .token {fill: var(--color-accent); opacity: .75; stroke: var(--body-background-fill)}
.clip-picture .token.odd {opacity: .4}
.clip-picture .token:hover {opacity: 1}
.history table {width: 100%; border-collapse: collapse; border: 0 !important}
.history th, .history td {text-align: left; padding: 6px 10px; vertical-align: top;
  border: 0 !important; color: var(--body-text-color)}
.history tr {border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important}
.history th {color: var(--body-text-color-subdued); font-weight: 600; white-space: nowrap}
.history td:nth-child(n+4) {white-space: nowrap; font-variant-numeric: tabular-nums}
footer {display: none !important}
"""


class Page:
    """Builds the page; `blocks` is what gradio launches."""

    def __init__(self, handlers: PageHandlers) -> None:
        self.handlers = handlers
        with gr.Blocks(
            title="audiolm",
            analytics_enabled=False,
            delete_cache=(FORGET_CHECK_SECONDS, FORGET_SECONDS),
        ) as self.blocks:
            self._add_states()
            self._add_header()
            with gr.Row(equal_height=False):
                with gr.Column(scale=5, min_width=320):
                    self._add_inputs()
                with gr.Column(scale=6, min_width=320):
                    self._add_answer()
            self._add_results()
            self._connect()
            self._connect_language()
        self.blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=4)

    def _add_states(self) -> None:
        self.clip = gr.State(None, time_to_live=SESSION_SECONDS)
        self.picked = gr.State(None)
        self.history = gr.State([], time_to_live=SESSION_SECONDS)

    def _add_header(self) -> None:
        with gr.Row(equal_height=True):
            with gr.Column(scale=5, min_width=320):
                self.title = gr.Markdown(_write_title("en"), elem_id="title")
            self.language = gr.Radio(
                list(LANGUAGES.items()), value="en", label=say("language", "en"),
                elem_id="language", scale=0, min_width=250, container=False,
            )  # fmt: skip

    def _add_inputs(self) -> None:
        desk = self.handlers.desk
        self.model = gr.Dropdown(
            list(desk.choices), value=desk.first.name, label=say("model", "en"), elem_id="model",
            filterable=False,
        )  # fmt: skip
        self.audio = gr.Audio(
            sources=["upload", "microphone"], type="filepath", label=say("audio", "en"),
            elem_id="audio", buttons=["download"],
        )  # fmt: skip
        self.examples = gr.Dataset(
            components=[gr.Textbox(visible=False)],
            samples=[[example.label] for example in self.handlers.examples],
            label=say("examples", "en"), type="index", elem_id="examples",
            visible=bool(self.handlers.examples),
        )  # fmt: skip

    def _add_answer(self) -> None:
        desk = self.handlers.desk
        tasks = list(desk.take(desk.first.name).tasks)
        self.task = gr.Dropdown(
            tasks, value=DEFAULT_TASK if DEFAULT_TASK in tasks else tasks[0],
            label=say("task", "en"), elem_id="task",
        )  # fmt: skip
        self.prompt = gr.Textbox(
            label=say("prompt", "en"), placeholder=say("prompt_hint", "en"), lines=2,
            elem_id="prompt",
        )  # fmt: skip
        with gr.Row():
            self.ask = gr.Button(say("ask", "en"), variant="primary", elem_id="ask")
            self.stop = gr.Button(say("stop", "en"), variant="secondary", elem_id="stop")
        self.note = gr.HTML(elem_id="note")
        self.answer = gr.Textbox(
            label=say("answer", "en"), placeholder=say("answer_hint", "en"), lines=3,
            interactive=False, elem_id="answer", buttons=["copy"],
        )  # fmt: skip
        self.timing = gr.HTML(elem_id="timing")

    def _add_results(self) -> None:
        self.picture_title = gr.Markdown(f"### {say('picture', 'en')}")
        self.picture = gr.HTML(elem_id="picture")
        with gr.Row(equal_height=True):
            self.history_title = gr.Markdown(f"### {say('history', 'en')}")
            self.clear = gr.Button(say("clear", "en"), size="sm", scale=0, min_width=160)
        self.table = gr.HTML(elem_id="history")

    def _connect(self) -> None:
        handlers = self.handlers
        in_line: dict[str, Any] = {
            "concurrency_id": MODEL_QUEUE, "concurrency_limit": 1, "api_visibility": "private",
        }  # fmt: skip
        self.audio.change(
            handlers.take_audio,
            [self.audio, self.picked, self.model, self.language],
            [self.clip, self.picture, self.note, self.timing],
            **in_line,
        ).then(lambda: None, None, self.picked, api_visibility="private")
        self.examples.click(
            handlers.take_example,
            self.examples,
            [self.picked, self.audio, self.task],
            api_visibility="private",
        )
        self.model.input(
            self._change_model,
            [self.model, self.clip, self.task, self.language],
            [self.task, self.picture, self.note],
            **in_line,
        )
        asking = gr.on(
            [self.ask.click, self.prompt.submit],
            handlers.ask,
            [self.model, self.clip, self.task, self.prompt, self.history, self.language],
            [self.answer, self.timing, self.note, self.history, self.table],
            show_progress="minimal",
            show_progress_on=self.answer,
            **in_line,
        )
        self.stop.click(None, cancels=[asking], api_visibility="private")
        self.clear.click(lambda: [], None, self.history, api_visibility="private").then(
            self._say_all, self._worded_inputs(), self._worded(), api_visibility="private"
        )

    def _change_model(self, *values: Any) -> tuple[Any, str, str]:
        tasks, task, picture, note = self.handlers.change_model(*values)
        return gr.update(choices=tasks, value=task), picture, note

    def _connect_language(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.language.change(self._say_all, self._worded_inputs(), self._worded(), **quiet)
        self.blocks.load(_read_language, None, self.language, **quiet).then(
            self._say_all, self._worded_inputs(), self._worded(), **quiet
        )

    def _worded_inputs(self) -> list[Any]:
        return [self.language, self.model, self.clip, self.history]

    def _worded(self) -> list[Any]:
        """The components that have texts, in the order of `_say_all`."""
        return [
            self.title, self.language, self.model, self.audio, self.examples, self.task,
            self.prompt, self.ask, self.stop, self.answer, self.picture_title,
            self.history_title, self.clear, self.picture, self.table,
        ]  # fmt: skip

    def _say_all(self, language: str, model: str, clip: Any, history: Any) -> list[Any]:
        """Every text in another language."""
        labels = [
            gr.update(label=say(key, language))
            for key in ("language", "model", "audio", "examples", "task")
        ]
        prompt_hint, answer_hint = say("prompt_hint", language), say("answer_hint", language)
        return [
            _write_title(language),
            *labels,
            gr.update(label=say("prompt", language), placeholder=prompt_hint),
            gr.update(value=say("ask", language)),
            gr.update(value=say("stop", language)),
            gr.update(label=say("answer", language), placeholder=answer_hint),
            f"### {say('picture', language)}",
            f"### {say('history', language)}",
            gr.update(value=say("clear", language)),
            self.handlers.draw(model, clip, language),
            show_history(history, language),
        ]


def _write_title(language: str) -> str:
    return f"# audiolm\n{say('subtitle', language)}"


def _read_language(request: gr.Request) -> str:
    """The language that the browser asks for."""
    return choose_language(request.headers.get("accept-language", ""))
