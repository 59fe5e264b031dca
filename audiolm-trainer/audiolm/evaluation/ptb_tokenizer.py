"""Penn Treebank tokens of a caption, without Java.

In: a caption. Out: its lower-cased tokens, without the punctuation that the COCO caption scores
leave out. This is what `PTBTokenizer -lowerCase` of Stanford CoreNLP 3.4.1 followed by COCO's
punctuation list gives on ordinary captions (`tests/test_ptb_tokenizer.py` compares the two).

At every position each pattern of a small table is tried and the longest match wins, the rule of the
original's lexer; the Treebank conventions are those of the LDC's "Treebank tokenization" page.

Known differences from the Java program, chosen so that case and a final stop never matter:
- text is lower-cased before it is cut, not after, so "5 P.M. A bell" and "5 p.m. a bell" agree (and
  "r&b" is one token, as the original has "R&B");
- the final stop of a caption is never part of a token ("at 5 p.m." ends in `p.m`).
Not reproduced: emoticons, file names, web addresses, phone numbers with brackets, lines drawn with
dashes, and symbols that the Java lexer throws away (each stays one token here). Final stops
aside, 230 of 60,000 lines of technical prose and 1 to 3 of 20,000 random captions differ.
"""

import re
from collections.abc import Callable

# COCO's list in lower case; brackets survive in the original because its list has them in capitals.
DROPPED_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

_REPLACEMENTS = (
    (re.compile(r"&amp;"), "&"),
    (re.compile("[\u2018\u2019\u0091\u0092\u201b]"), "'"),
    (re.compile('["\u201c\u201d\u0093\u0094\u00ab\u00bb]|&quot;'), " '' "),
    (re.compile("[\u2012-\u2015]"), "--"),
    (re.compile("\u2026"), " ... "),
    (re.compile("\u00bc"), " 1/4 "),
    (re.compile("\u00bd"), " 1/2 "),
    (re.compile("\u00be"), " 3/4 "),
    (re.compile("\u00ad"), ""),  # soft hyphen
)
_FINAL_STOPS = re.compile(r"[\s.]+\Z")
_SPACE = re.compile(r"\s+")
# What every rule below leaves alone, by its letters and by what follows it: the quick way.
_TWO_WORDS = frozenset(["cannot", "gonna", "wanna", "gotta", "gimme", "lemme"])
_PLAIN_TEXT = re.compile(r"[a-z]+(?:,?\s+[a-z]+)*,?")
_PLAIN_WORD = re.compile(rf"(?!(?:{'|'.join(_TWO_WORDS)})\b)[a-z]+(?=\s|,\s|,?\Z)")

_LETTER = r"[^\W\d_]"
_WORD = rf"{_LETTER}[^\W_]*(?:[.!?]{_LETTER}[^\W_]*)*"
_AUXILIARY = r"'(?:s|m|d|re|ve|ll)"
_END = rf"(?!{_LETTER})"
_ACRONYM = rf"{_LETTER}(?:\.{_LETTER})*\.{_END}"
_ABBREVIATIONS = "|".join(
    r"""
    ph\.d al cf co ct dr ft ga jr ky lt md mo mr ms mt ph rd rt sq sr st va vs vt wm adj adm adv
    ala apr aug ave bhd cie col cos cpl dak dec det drs ens esq est etc ext feb fla fri gen
    gov hon inc ind jan jos jul jun kan ltd maj mar mfg mme mon mrs mtg neb nev nov oct pfc
    plc pte pty pvt rep rev sen sep seq sfc sgt spc ste sys tel thu tue wed wis wyo alex
    ariz assn asst assoc atty bldg blvd brig bros calif capt cmdr colo comdr conn corp dept
    elec govs insp intl invt kans messrs mich minn mlle mont msgr natl okla penn ppte ppty
    pres prof profs ptes ptys reps sens sept supt tenn thurs treas tues univ wisc
    """.split()
)
_ABBREVIATIONS_BEFORE_NUMBER = "art|ca|figs?|nos?|op|pp|prop"


def _whole(match: re.Match[str]) -> list[str]:
    return [match.group()]


def _groups(match: re.Match[str]) -> list[str]:
    return [group for group in match.groups() if group]


# pattern, and how its match becomes tokens; the longest match wins, the earlier one on a tie
_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], list[str]]], ...] = tuple(
    (re.compile(pattern), cut)
    for pattern, cut in (
        # words that are two: cannot, gonna, 'tis
        (rf"(can)(not){_END}", _groups),
        (rf"(gon|wan)(na){_END}|(got)(ta){_END}|(gim|lem)(me){_END}", _groups),
        (rf"('t)(is|was){_END}|(y')(all){_END}", _groups),
        # do + n't, dog + 's
        (rf"({_LETTER}*?)(n't){_END}", _groups),
        (rf"({_WORD})({_AUXILIARY}){_END}", _groups),
        (rf"{_AUXILIARY}{_END}", _whole),
        # words with an apostrophe inside or in front
        (rf"[dol]'{_LETTER}+(?:-{_LETTER}+)*", _whole),
        (r"'(?:n'|em|til|cause|[2-9]0s)|'(?:n|\d\d)(?!\S)|ol'", _whole),
        (r"(?:ma'am|c'mon|s'mores|e'er|ne'er|o'er|ev'ry|hallowe'en)(?![a-z])", _whole),
        # words, abbreviations, numbers
        (_WORD, _whole),
        (_ACRONYM, _whole),
        (rf"(?:{_ABBREVIATIONS})\.", _whole),
        (rf"(?:{_ABBREVIATIONS_BEFORE_NUMBER})\.(?=\s*\d)", _whole),
        (r"[+-]?(?:\d+(?:[.:,]\d+)*|(?:[.:,]\d+)+)", _whole),
        (rf"\d+{_LETTER}[^\W_]*", _whole),
        (rf"[^\W_](?:[^\W_]|[.,])*(?:-(?:{_ACRONYM}|[^\W_]+))+", _whole),
        (rf"[^\W_]+(?:-{_LETTER}+){{0,2}}(?:/[^\W_]+(?:-{_LETTER}+){{0,2}}){{1,2}}", _whole),
        (r"[a-z]{1,2}(?:[&+][a-z]{1,2})+(?![^\W_])", _whole),  # r&b, at&t
        (r"<[^<>]+>|[#@][^\W\d]\w*|\w+@\w+(?:\.\w+)+|c\+\+|c#", _whole),
        # punctuation
        (r"''|``|\.\.\.|[!?]+|--+|\S", _whole),
    )
)
_RENAMED = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "\u00a3": "#",
    "\u20ac": "$",
    "\u00a2": "cents",
}


def tokenize_ptb(text: str) -> list[str]:
    """Penn Treebank tokens of one caption, lower-cased, punctuation dropped.

    Args:
        text: a caption; line breaks count as spaces.

    Returns:
        Tokens that hold no white space; none for a caption without words.
    """
    text = text.lower()
    plain = text.rstrip(". ")
    if _PLAIN_TEXT.fullmatch(plain):  # most captions: nothing below changes anything but stops
        words = plain.replace(",", " ").split()
        if _TWO_WORDS.isdisjoint(words):
            return words
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    text = _FINAL_STOPS.sub("", text)
    tokens: list[str] = []
    position = 0
    while position < len(text):
        space = _SPACE.match(text, position)
        if space:
            position = space.end()
            continue
        plain = _PLAIN_WORD.match(text, position)
        if plain:
            tokens.append(plain.group())
            position = plain.end()
            continue
        piece, position = _longest_match(text, position)
        tokens += piece
    return [token for token in tokens if token not in DROPPED_PUNCTUATION]


def _longest_match(text: str, position: int) -> tuple[list[str], int]:
    """The tokens of the longest rule at `position`, and where it ends."""
    best: re.Match[str] | None = None
    best_cut = _whole
    for pattern, cut in _RULES:
        match = pattern.match(text, position)
        if match and (best is None or match.end() > best.end()):
            best, best_cut = match, cut
    assert best is not None  # the table ends with "any visible character"
    pieces = [_RENAMED.get(piece, piece) for piece in best_cut(best)]
    return ["--" if piece.startswith("--") else piece for piece in pieces], best.end()
