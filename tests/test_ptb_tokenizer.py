"""The Java-free Penn Treebank tokeniser: its rules, and equality with Stanford's Java program."""

import importlib.util
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.evaluation import ptb_tokenizer
from audiolm.evaluation.ptb_tokenizer import tokenize_ptb

# what COCO's caption evaluation leaves out of the Java program's output, as its list has it
COCO_PUNCTUATION = {
    "''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-",
    ".", "?", "!", ",", ":", "-", "--", "...", ";",
}  # fmt: skip

# captions of the kinds that audio caption corpora hold, with their contractions, numbers and quotes
CAPTIONS = """
A man speaks while a dog barks in the background.
Rain falls on a metal roof as thunder rumbles in the distance
An engine idles, then revs several times; a horn honks.
A woman's voice is heard over a loudspeaker, and people aren't listening.
The dogs' barking echoes in the children's playground.
A high-pitched beep - beep - beep is followed by a low-frequency hum.
Someone types on a keyboard and clicks a mouse (twice).
"Hello there," says a man, "how are you?"
'Goodbye' is said by a young girl, who then laughs.
Birds chirp & insects buzz; it's a summer's night!
A clock strikes 12 o'clock... then ticks on.
Water drips into a sink -- slowly at first, then faster.
A crowd of 1,000 people cheers for 10.5 seconds at 5:30.
A 1970s car drives by at 60 mph, and/or a truck.
Mr. Smith speaks to Dr. Jones on St. Mary's street while a train passes.
A man can't start his motorcycle, he's going to try again, they'll wait.
I'm sure they've said you're late and she'd know, cannot you see?
He's gonna talk and wanna sing, gotta go, gimme that, lemme see
Rock 'n' roll music plays from the '90s, y'all.
A baby cries \u2013 its mother hushes \u2014 it\u2019s calm \u201cagain\u201d\u2026 and sleeps
[Music] plays {loudly} over an x-ray machine's clicking.
Metal clanking, metal clanking,metal clanking .
Three people speak: a man, a woman and a child?!
Wow!! What was that??? A gunshot! Another one.
a door is opened. a person walks in. the door is closed
An ambulance siren (wee-woo) passes; cars pass by, 24/7.
50% of the sound is static, #1 is wind; it costs $5 or \u00a33 or \u20ac2.
A TV plays in the U.S. at 7 p.m. while a fan whirs on.
A D.J. mixes hip-hop and R&B tracks at 3/4 speed
Caf\u00e9 noise, na\u00efve chatter and clich\u00e9d jazz.
A cat-like meow, a semi-automatic rifle and a merry-go-round
Nothing is heard, except for silence etc., and a hum.
People talk; no. 5 is called, fig. 2 is shown, vs. nothing.
""".strip().splitlines()

VOCABULARY = """
a an the dog dogs barks barking while rain falls on roof man woman people speaks loudly then door
closes engine idling revs car by high-pitched background someone types keyboard water drips into
sink footsteps gravel birds chirp wind blows microphone bell rings twice clock tick-tock music plays
baby cries laughing crowd cheering siren vehicle train whistle splash thunder helicopter motorcycle
tires gunshots cat meows sheep duck quacks bees buzz snoring sneezes hiccups sewing machine drill
don't can't isn't dog's man's dogs' it's they're we've he'll she'd o'clock 5 10 two 1,000 2.5 10:30
1st 90's 50% and/or x-ray U.S. TV p.m. Mr. St. cannot gonna 20-foot 3-second
""".split()
SEPARATORS = [", ", ". ", "; ", ": ", " - ", " -- ", "... ", "! ", "? ", " (", ") ", ' "', '" ']

JAR_PACKAGE = importlib.util.find_spec("pycocoevalcap")
needs_jar = pytest.mark.skipif(
    JAR_PACKAGE is None or shutil.which("java") is None,
    reason="needs Java and the package pycocoevalcap, which ships the tokeniser's jar",
)


def tokenize_with_java(captions: list[str], folder: Path) -> list[list[str]]:
    """The original: Stanford's PTBTokenizer as COCO's evaluation calls it, punctuation dropped."""
    assert JAR_PACKAGE is not None
    folders = [Path(path) for path in JAR_PACKAGE.submodule_search_locations or []]
    jar = folders[0] / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    input_path = folder / "captions.txt"
    input_path.write_text("\n".join(captions), encoding="utf-8")
    command = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(jar)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    output = subprocess.run([*command, str(input_path)], capture_output=True, check=True).stdout
    lines = output.decode("utf-8").split("\n")
    assert len(lines) == len(captions)
    return [[word for word in line.split() if word not in COCO_PUNCTUATION] for line in lines]


def build_random_captions(num_captions: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    captions = []
    for _ in range(num_captions):
        caption = generator.choice(VOCABULARY).capitalize()
        for _ in range(generator.randint(2, 18)):
            separator = generator.choice(SEPARATORS) if generator.random() < 0.1 else " "
            caption += separator + generator.choice(VOCABULARY)
        # an abbreviation in front of the final stop is where the two differ on purpose
        captions.append(caption + " again" + generator.choice(["", ".", "!", "...", ' ."']))
    return captions


@pytest.mark.java
@needs_jar
@pytest.mark.parametrize("captions", [CAPTIONS, build_random_captions(3000, seed=0)], ids=len)
def test_equals_java(captions, tmp_path):
    expected = tokenize_with_java(captions, tmp_path)
    ours = [tokenize_ptb(caption) for caption in captions]
    different = [row for row in zip(captions, expected, ours, strict=True) if row[1] != row[2]]
    assert different == []


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A dog's bark, isn't it?", "a dog 's bark is n't it"),
        ("They can't; it cannot.", "they ca n't it can not"),
        ("Dogs' (loud) barks!", "dogs -lrb- loud -rrb- barks"),
        ('"Hello," he says -- twice...', "hello he says twice"),
        ("don\u2019t \u201cstop\u201d\u2026", "do n't stop"),
        ("and/or a high-pitched 10-second beep", "and/or a high-pitched 10-second beep"),
        ("1,000 birds at 5:30 for 50% of $5", "1,000 birds at 5:30 for 50 % of $ 5"),
        ("Mr. Smith of the U.S. speaks", "mr. smith of the u.s. speaks"),
        ("개가 짖는다.", "개가 짖는다"),
        ("two\nlines\tand\u00a0spaces", "two lines and spaces"),
        ("", ""),
        ("... ?!", "?!"),
    ],
)
def test_known_tokens(caption, tokens):
    assert tokenize_ptb(caption) == tokens.split()


@given(st.lists(st.sampled_from(VOCABULARY), max_size=10), st.sampled_from(["", ".", " .", "..."]))
def test_case_and_final_stop_do_not_matter(words, stop):
    caption = " ".join(words)
    assert tokenize_ptb(caption.upper() + stop) == tokenize_ptb(caption)


@settings(max_examples=500)
@given(st.text(max_size=60))
def test_tokens_of_any_text_hold_no_space(text):
    tokens = tokenize_ptb(text)
    assert all(token and token.split() == [token] for token in tokens)
    # what was tokenised stays tokenised
    assert len(tokens) >= len([word for word in text.split() if word.isalpha()])


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.sampled_from(VOCABULARY + "cannot gonna, dog, cats,dogs , a,b".split()), max_size=7)
)
def test_quick_way_gives_what_the_rules_give(words):
    text = " ".join(words)
    never = re.compile(r"(?!)")
    quick = ptb_tokenizer._PLAIN_TEXT, ptb_tokenizer._PLAIN_WORD
    found = tokenize_ptb(text)
    ptb_tokenizer._PLAIN_TEXT = ptb_tokenizer._PLAIN_WORD = never
    try:
        assert found == tokenize_ptb(text)
    finally:
        ptb_tokenizer._PLAIN_TEXT, ptb_tokenizer._PLAIN_WORD = quick
