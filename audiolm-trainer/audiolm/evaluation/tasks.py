"""How each task is scored: which numbers its answers get, and which of them comes first.

In: a task name of the prompt files. Out: a `ScoreKind`. What each number means is defined in
`docs/evaluation.md`.
"""

from dataclasses import dataclass

from audiolm.errors import UserError


@dataclass(frozen=True)
class ScoreKind:
    """A family of tasks that are scored alike.

    Attributes:
        name: what the answers are.
        primary: the number that comes first.
        is_error: whether less is better, of the primary number.
    """

    name: str
    primary: str
    is_error: bool

    @property
    def counts_edits(self) -> bool:
        """Whether the primary number is a rate of substitutions, deletions and insertions."""
        return self.is_error


TRANSCRIPTS = ScoreKind("transcripts", "wer", is_error=True)
CHARACTERS = ScoreKind("transcripts by characters", "cer", is_error=True)
PHONES = ScoreKind("phones", "phone_error_rate", is_error=True)
CAPTIONS = ScoreKind("captions", "cider_d", is_error=False)
LABELS = ScoreKind("labels", "accuracy", is_error=False)
ANSWERS = ScoreKind("answers", "exact_match", is_error=False)
TRANSLATIONS = ScoreKind("translations", "bleu", is_error=False)
KINDS = (TRANSCRIPTS, CHARACTERS, PHONES, CAPTIONS, LABELS, ANSWERS, TRANSLATIONS)

# Languages written without spaces between words, or with too few: scored by characters.
CHARACTER_LANGUAGES = ("zh", "ja", "ko")

_KIND_OF_TASK = {
    "asr": TRANSCRIPTS,
    "lyrics_recognition": TRANSCRIPTS,
    "speech_separation": TRANSCRIPTS,
    "speaker_diarization_asr": TRANSCRIPTS,
    "phone_recognition": PHONES,
    "music_description": CAPTIONS,
    "audio_speech_description": CAPTIONS,
    "fluent_speech_audio": CAPTIONS,
    "audio_story_telling": CAPTIONS,
    "gender_recognition": LABELS,
    "emotion_recognition": LABELS,
    "speaker_verification": LABELS,
    "QA": ANSWERS,
    "inference_QA": ANSWERS,
    "gender_QA": ANSWERS,
    "speech_query": ANSWERS,
    "speech_audio_query": ANSWERS,
    "speech_audio_coreasoning": ANSWERS,
    "slot_filling": ANSWERS,
    "keywords": ANSWERS,
}


def find_score_kind(task: str) -> ScoreKind | None:
    """How a task is scored; None: it is decoded, and not scored.

    `asr_LANGUAGE` is scored as transcripts (by characters for zh, ja and ko), `audiocaption...` as
    captions, `translation_...` as translations, `..._QA` as answers.
    """
    if task in _KIND_OF_TASK:
        return _KIND_OF_TASK[task]
    if task.startswith("asr_"):
        is_by_character = task.removeprefix("asr_").split("_")[0] in CHARACTER_LANGUAGES
        return CHARACTERS if is_by_character else TRANSCRIPTS
    if task.startswith("audiocaption"):
        return CAPTIONS
    if task.startswith("translation_"):
        return TRANSLATIONS
    return ANSWERS if task.endswith("_QA") else None


def need_score_kind(task: str) -> ScoreKind:
    """`find_score_kind`, for a caller that has to score.

    Raises:
        UserError: nothing is known about how to score the task.
    """
    kind = find_score_kind(task)
    if kind is None:
        raise UserError(
            f"task {task!r} has no score: those that do are {', '.join(_KIND_OF_TASK)}, and names "
            "that start with asr_, audiocaption or translation_, or end with _QA"
        )
    return kind
