"""What an evaluation reads, looked at before a model is loaded.

In: the configuration, a mode of `submission.MODE_FOLDERS`, the clips of its annotation. Out: which
options are needed, each clip's prompt, how a task is scored; a mistake is a `UserError`.
"""

from collections.abc import Sequence

from audiolm.config import Config
from audiolm.data.annotations import Clip, check_tasks, resolve_audio_path
from audiolm.errors import UserError
from audiolm.prompts import PromptBook, apply_template, split_at_marker


def find_annotation(config: Config, mode: str) -> tuple[str, str]:
    """The option that names a mode's annotation, and its value: the mode's own, or the common one.

    Raises:
        UserError: neither is set.
    """
    datasets = config.datasets
    if mode in ("test_set", "valid_tasks"):
        if not datasets.test_ann_path:
            raise UserError(
                "datasets.test_ann_path is not set; give it in the file or with --options "
                "datasets.test_ann_path=PATH"
            )
        return "datasets.test_ann_path", datasets.test_ann_path
    task = mode.rpartition("_")[2]
    own_paths = {"asr": datasets.test_ann_path_asr, "aac": datasets.test_ann_path_aac}
    own_option = f"datasets.test_ann_path_{task}"
    if own_paths[task]:
        return own_option, own_paths[task]
    if datasets.test_ann_path:
        return "datasets.test_ann_path", datasets.test_ann_path
    raise UserError(
        f"{own_option} is not set; give it in the file or with --options {own_option}=PATH "
        "(or datasets.test_ann_path for both tasks)"
    )


def list_required_paths(config: Config, mode: str) -> list[str]:
    """Path options that a mode reads, for `config_file.resolve_input_paths`."""
    always = ["model.llama_path", "model.whisper_path", "model.test_prompt_path"]
    if_set = {
        "model.beats_path": config.model.beats_path,
        "model.ckpt": config.model.ckpt,
        "model.speech_llama_proj_model": config.model.speech_llama_proj_model,
        "datasets.prefix": config.datasets.prefix,
        "datasets.whisper_path": config.datasets.whisper_path,
    }
    given = [name for name, value in if_set.items() if value]
    return [*always, *given, find_annotation(config, mode)[0]]


def select_tasks(clips: Sequence[Clip], tasks: Sequence[str], annotation_path: str) -> list[Clip]:
    """The entries of `tasks`; all of them when it is empty.

    Raises:
        UserError: a task of which there is no entry.
    """
    if not tasks:
        return list(clips)
    found = dict.fromkeys(clip.task for clip in clips)
    for task in tasks:
        if task not in found:
            raise UserError(
                f"--tasks {task}: no entry of {annotation_path} has that task; "
                f"tasks there: {', '.join(found)}"
            )
    return [clip for clip in clips if clip.task in tasks]


def build_prompts(
    clips: Sequence[Clip], annotation_path: str, prompt_path: str, template: str
) -> list[str]:
    """The whole prompt of each clip: its task's sentence, question filled in, in the template.

    Raises:
        UserError: no prompt file, a task it does not have, or a prompt that does not hold
            `<SpeechHere>` exactly once.
    """
    book = PromptBook.load(prompt_path)
    check_tasks(annotation_path, clips, book)
    prompts = [apply_template(template, book.first(clip.task, clip.question)) for clip in clips]
    for prompt in dict.fromkeys(prompts):
        split_at_marker(prompt)
    return prompts


def check_audio_files(clips: Sequence[Clip], prefix: str, *, skips_missing: bool) -> None:
    """Make sure, before any decoding, that the clips' files are there.

    Raises:
        UserError: some are missing (with `skips_missing`: all are).
    """
    missing = []
    for clip in clips:
        if clip.stored is not None:
            continue  # `ShardStore.check` looks at the shards
        paths = (resolve_audio_path(prefix, path) for path in (clip.path, *clip.expand_wav))
        missing += [(clip, path) for path in paths if not path.is_file()][:1]
    if not missing or (skips_missing and len(missing) < len(clips)):
        return
    clip, path = missing[0]
    fix = "" if skips_missing else "; datasets.bad_audio: skip leaves such clips out"
    raise UserError(
        f"{len(missing)} of {len(clips)} clips have no audio file; first: annotation[{clip.index}] "
        f"({clip.path}): no such file {path}; check the path and datasets.prefix{fix}"
    )


def choose_row_ids(clips: Sequence[Clip]) -> list[str]:
    """The testset_ids when every clip has one of its own, else `test0000`, `test0001`, ..."""
    ids = [clip.testset_id or "" for clip in clips]
    if all(ids) and len(set(ids)) == len(ids):
        return ids
    return [f"test{position:04d}" for position in range(len(clips))]
