"""The figures' texts in English and Korean."""

import functools
from typing import Protocol


class Say(Protocol):
    """A text by its name, in one language, `{name}`s filled in."""

    def __call__(self, key: str, **values: str) -> str: ...


_TEXTS: dict[str, tuple[str, str]] = {
    "architecture_title": (
        "A clip goes through Whisper and BEATs, windows, Q-Former and projector into the LLM",
        "오디오 클립이 Whisper와 BEATs, 윈도, Q-Former, 프로젝터를 거쳐 LLM으로 들어가는 과정",
    ),
    "clip": ("clip", "오디오"),
    "clip_note": ("{seconds} s, 16 kHz mono", "{seconds}초, 16 kHz 모노"),
    "padded": ("padded to 30 s", "30초로 패딩"),
    "filterbank": ("filterbank", "필터뱅크"),
    "kaldi": ("Kaldi, 10 ms frames", "Kaldi, 10 ms 프레임"),
    "whisper": ("Whisper-large-v3 encoder", "Whisper-large-v3 인코더"),
    "speech": ("speech, 50 Hz", "음성, 50 Hz"),
    "sounds": ("sounds, 16 x 16 patches", "소리, 16 x 16 패치"),
    "norms": ("LayerNorms, side by side", "LayerNorm 후 이어 붙임"),
    "shorter": ("shorter one zero-padded", "짧은 쪽은 0으로 채움"),
    "windows": (
        "windows of {frames} frames ({seconds} s), one audio token each",
        "{frames}프레임({seconds}초) 윈도, 윈도마다 오디오 토큰 하나",
    ),
    "light": ("light: the {count} that hold audio", "light: 소리가 있는 {count}개만"),
    "exact": (
        "salmonn: all {count}, whatever the clip's length",
        "salmonn: 길이와 관계없이 {count}개 모두",
    ),
    "qformer": (
        "{layers} layers, {queries} query per window",
        "{layers}층, 윈도마다 쿼리 {queries}개",
    ),
    "projector": ("projector", "프로젝터"),
    "to_width": ("to the LLM's width", "LLM의 너비로"),
    "trained": ("trained", "학습함"),
    "frozen": ("pretrained and frozen", "사전학습 가중치 고정"),
    "computed": ("computed", "계산 결과"),
    "answer": ("answer", "답"),
    "lora": ("LoRA r={rank} on q, v", "q, v에 LoRA r={rank}"),
    "windowing_title": (
        "Encoder frames, windows, and the audio tokens of the two modes",
        "인코더 프레임과 윈도, 두 모드의 오디오 토큰",
    ),
    "frames_of": (
        "encoder frames of a clip of {seconds} s, one every 20 ms; white: silence up to 30 s",
        "{seconds}초 오디오의 인코더 프레임: 20 ms마다 하나. 흰색은 30초까지 채운 무음",
    ),
    "window": ("window {number}", "윈도 {number}"),
    "only_fixed": ("only with audio_tokens: fixed", "audio_tokens: fixed에서만"),
    "starts": (
        "length_aware: every window that starts inside the audio becomes one token",
        "length_aware: 소리 안에서 시작하는 윈도마다 토큰 하나",
    ),
    "tokens_of": ("{seconds} s", "{seconds}초"),
    "positions": ("audio tokens in the LLM's prompt", "LLM 프롬프트에 들어가는 오디오 토큰 수"),
    "adapter": ("{name} r={rank} in the LLM", "LLM 안의 {name} r={rank}"),
    "stages_title": ("The two training stages and the evaluation", "두 단계의 학습과 평가"),
    "stage1": ("stage 1: alignment", "1단계: 정렬"),
    "stage2": ("stage 2: instruction tuning", "2단계: 지시 튜닝"),
    "evaluation": ("evaluation", "평가"),
    "starts_from": ("starts from", "시작"),
    "pretrained": ("pretrained encoders and LLM", "사전학습된 인코더와 LLM"),
    "stage1_ckpt": ("stage 1's checkpoint", "1단계 체크포인트"),
    "stage2_ckpt": ("stage 2's checkpoint", "2단계 체크포인트"),
    "data1": ("transcripts and captions", "전사문과 캡션"),
    "data2": ("many tasks, many prompts", "여러 태스크, 여러 프롬프트"),
    "data3": ("test sets: WER, captions, submission", "테스트 세트: WER, 캡션, 제출 파일"),
    "schedule": (
        "{epochs} epochs of {steps} batches of {clips}, peak rate {rate}",
        "배치 크기 {clips}, {steps}배치 x {epochs}에폭, 최고 학습률 {rate}",
    ),
    "beams": (
        "beams: {beams}, at most {tokens} new tokens",
        "빔 {beams}개, 새 토큰 최대 {tokens}개",
    ),
    "memory_title": (
        "Peak memory of training, by train.py --plan",
        "train.py --plan이 계산한 학습 최대 메모리",
    ),
    "memory_note": (
        "configs/train_stage1.yaml, {clips} clips per batch, GPU; each row with all above it",
        "configs/train_stage1.yaml, 배치당 {clips}개, GPU. 각 행은 위의 설정을 모두 포함",
    ),
    "as_configured": ("as configured", "설정 그대로"),
    "typical": ("typical batch, clips of {seconds} s", "보통 배치, {seconds}초 오디오"),
    "longest": ("longest batch, clips of {seconds} s", "가장 긴 배치, {seconds}초 오디오"),
    "card": ("{gib} GiB", "{gib} GiB"),
    "pareto_title": (
        "Word error rate against time and size",
        "단어 오류율 대 시간과 크기",
    ),
    "pareto_note": (
        "real run, configs/real_sweep.yaml, 2 CPU cores; filled: not beaten in its panel",
        "실제 가중치 모델, configs/real_sweep.yaml, CPU 코어 2개. 채운 점: 그 그림에서 최선",
    ),
    "wer": ("WER, %", "WER, %"),
    "ttft": ("TTFT, ms", "첫 토큰까지(TTFT), ms"),
    "tpot": ("TPOT, ms", "토큰당 시간(TPOT), ms"),
    "weights": ("weights, MiB", "가중치, MiB"),
    "ttft_unit": ("ms", "ms"),
    "tpot_unit": ("ms", "ms"),
    "weights_unit": ("MiB", "MiB"),
}
LANGUAGES = ("en", "ko")


def choose_texts(language: str) -> Say:
    """The texts of `en` or `ko`."""
    return functools.partial(_say, language)


def _say(language: str, key: str, **values: str) -> str:
    return _TEXTS[key][LANGUAGES.index(language)].format(**values)
