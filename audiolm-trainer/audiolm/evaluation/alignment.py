"""Which words of a hypothesis stand for which words of its reference.

In: tokens of both. Out: steps `(kind, reference words, hypothesis words)`, of the kinds below;
neighbouring steps of one kind that is right are joined.
"""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from audiolm.evaluation.asr import tokenize_reference
from audiolm.evaluation.ptb_tokenizer import tokenize_ptb
from audiolm.evaluation.tasks import CAPTIONS, CHARACTERS, PHONES, TRANSCRIPTS, ScoreKind
from audiolm.evaluation.transcripts import split_characters, split_phones

RIGHT, SUBSTITUTED, DELETED, INSERTED = "=", "s", "d", "i"
_KINDS = {"equal": RIGHT, "replace": SUBSTITUTED, "delete": DELETED, "insert": INSERTED}
_SPLITTERS = {
    TRANSCRIPTS.name: tokenize_reference,
    CHARACTERS.name: split_characters,
    PHONES.name: split_phones,
}

Step = tuple[str, str, str]


def align_texts(kind: ScoreKind, hypothesis: str, references: Sequence[str]) -> list[Step]:
    """The steps from reference to hypothesis, in the tokens that the scores count.

    Captions have no order to keep: each of their words is right when some reference has it.
    """
    if kind is CAPTIONS:
        known = {word for text in references for word in tokenize_ptb(text)}
        words = tokenize_ptb(hypothesis)
        return join_right([(RIGHT if w in known else INSERTED, "", w) for w in words])
    split = _SPLITTERS.get(kind.name, str.split)
    first = references[0] if references else ""
    return align_tokens(split(hypothesis), split(first))


def align_tokens(hypothesis: Sequence[str], reference: Sequence[str]) -> list[Step]:
    """The fewest steps from reference to hypothesis."""
    steps: list[Step] = []
    for block in Levenshtein.opcodes(reference, hypothesis):
        wanted = reference[block.src_start : block.src_end]
        said = hypothesis[block.dest_start : block.dest_end]
        kind = _KINDS[block.tag]
        for place in range(max(len(wanted), len(said))):
            steps.append(
                (
                    kind,
                    wanted[place] if place < len(wanted) else "",
                    said[place] if place < len(said) else "",
                )
            )
    return join_right(steps)


def join_right(steps: Sequence[Step]) -> list[Step]:
    """Neighbouring right steps as one."""
    joined: list[Step] = []
    for kind, wanted, said in steps:
        if joined and kind == RIGHT == joined[-1][0]:
            _, before, said_before = joined[-1]
            joined[-1] = (kind, f"{before} {wanted}".strip(), f"{said_before} {said}".strip())
        else:
            joined.append((kind, wanted, said))
    return joined


def format_alignment(steps: Sequence[Step]) -> tuple[str, str]:
    """Two lines of equal places: reference and hypothesis, errors in capitals, gaps as `*`."""
    above, below = [], []
    for kind, wanted, said in steps:
        if kind == RIGHT:
            pair = wanted, said
        else:
            pair = (wanted or "*").upper(), (said or "*").upper()
        width = max(map(len, pair))
        above.append(pair[0].ljust(width, "*" if kind != RIGHT and not wanted else " "))
        below.append(pair[1].ljust(width, "*" if kind != RIGHT and not said else " "))
    return " ".join(above).rstrip(), " ".join(below).rstrip()
