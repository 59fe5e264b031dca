"""What the objective `ctc` needs to know of a run's texts before the first step."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.config import DatasetsConfig
from audiolm.data.clips import Clip
from audiolm.errors import UserError
from audiolm.models.audio_tokens import plan_frames
from audiolm.models.ctc_loss import CtcVocabulary
from audiolm.models.salmonn import SALMONN
from audiolm.training.data import measure_model_seconds


def prepare_ctc(
    model: SALMONN,
    clips: Sequence[Clip],
    datasets: DatasetsConfig,
    report: Callable[[str], None],
) -> None:
    """Give the model the vocabulary of all texts, and tell how many clips can teach it nothing.

    CTC needs an audio token for each token of the answer, and one more between equal ones.

    Args:
        model: of the objective "ctc".
        clips: of training and validation.
        datasets: where the clips' audio is, for its length.
        report: takes a line for the user.

    Raises:
        UserError: more than half of the clips have too few audio tokens.
    """
    answers = [[model.tokenize_answer(text) for text in clip.texts] for clip in clips]
    model.ctc_vocabulary = CtcVocabulary.of(
        model.llama_tokenizer, (answer for texts in answers for answer in texts)
    )
    num_samples = torch.from_numpy(measure_model_seconds(datasets, clips) * SAMPLE_RATE_HZ).long()
    max_frames = model.encoder_sizes.max_frames
    available = plan_frames(num_samples, max_frames, model.audio_options).num_windows.tolist()
    pairs = zip(answers, available, strict=True)
    num_short = sum(max(map(count_needed, texts)) > windows for texts, windows in pairs)
    if num_short:
        message = (
            f"model.objective: ctc: {num_short} of {len(clips)} clips have fewer windows than "
            "their answers need and teach nothing; a smaller model.second_stride makes more"
        )
        if num_short > len(clips) / 2:
            raise UserError(message)
        report(message)


def count_needed(answer: Sequence[int]) -> int:
    """Audio tokens that a reading of the answer takes."""
    return len(answer) + sum(one == other for one, other in pairwise(answer))
