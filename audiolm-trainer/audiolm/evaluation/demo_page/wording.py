"""The page's texts in its two languages."""

from typing import Literal

Language = Literal["en", "ko"]
LANGUAGES: dict[str, Language] = {"English": "en", "한국어": "ko"}

_TEXTS: dict[str, tuple[str, str]] = {
    "subtitle": (
        "Upload or record a clip, choose a task or type a question. "
        "At most the first 30 s are heard.",
        "오디오를 올리거나 녹음한 뒤 태스크를 고르거나 질문을 입력하세요. "
        "최대 앞 30초까지 듣습니다.",
    ),
    "language": ("Language", "언어"),
    "model": ("Model", "모델"),
    "audio": ("Audio", "오디오"),
    "examples": ("Examples", "예시"),
    "task": ("Task", "태스크"),
    "prompt": ("Question", "질문"),
    "prompt_hint": ("empty: the task's own sentence", "비워 두면 태스크의 기본 문장을 씁니다"),
    "ask": ("Ask", "질문하기"),
    "stop": ("Stop", "중지"),
    "answer": ("Answer", "답변"),
    "answer_hint": ("the answer appears here, token by token", "답변이 토큰 단위로 나타납니다"),
    "picture": ("What the model hears", "모델이 듣는 것"),
    "waveform": ("waveform", "파형"),
    "log_mel": ("log-mel", "로그 멜"),
    "tokens": ("tokens", "토큰"),
    "seconds": ("s", "초"),
    "history": ("History", "기록"),
    "clear": ("Clear history", "기록 지우기"),
    "no_history": ("Nothing asked yet.", "아직 질문이 없습니다."),
    "no_picture": ("The picture of a clip appears here.", "오디오를 고르면 그림이 나타납니다."),
    "no_clip": (
        "There is no clip yet: upload one, record one, or take an example.",
        "오디오가 없습니다. 파일을 올리거나 녹음하거나 예시를 고르세요.",
    ),
    "error": ("Error", "오류"),
    "clip": ("clip", "오디오"),
    "question": ("question", "질문"),
    "reference": ("Reference", "정답"),
    "ttft": ("first token", "첫 토큰까지"),
    "tpot": ("per token", "토큰당"),
    "encoding": ("encoding", "인코딩"),
    "reused": ("reused", "재사용"),
    "audio_tokens": ("audio tokens", "오디오 토큰"),
    "new_tokens": ("new tokens", "생성 토큰"),
    "peak": ("peak memory", "최대 메모리"),
    "truncated": (
        "{name}: {seconds} s long; only the first 30 s are heard.",
        "{name}: 길이가 {seconds}초이며 앞 30초만 듣습니다.",
    ),
}


def say(key: str, language: str, **values: str) -> str:
    """A text of the page, `{name}`s filled in."""
    english, korean = _TEXTS[key]
    return (korean if language == "ko" else english).format(**values)


def list_keys() -> list[str]:
    """Every text there is."""
    return list(_TEXTS)


def choose_language(accept_language: str) -> Language:
    """The page's language for a browser's `Accept-Language` header."""
    return "ko" if accept_language.strip().lower().startswith("ko") else "en"
