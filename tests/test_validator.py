"""The submission validator: the recorded verdicts, every rule with its row, and exit statuses."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import submission_validator
from submission_validator import MAX_TEXT_CHARACTERS, UnusableInput, find_problems, main

SCRIPT = Path(submission_validator.__file__)
GOLDEN_DIR = Path(__file__).parent / "data" / "golden" / "validator"
VERDICTS = json.loads((GOLDEN_DIR / "verdicts.json").read_text(encoding="utf-8"))["verdicts"]

# The recorded "intended" verdict is the old rule as written (every text a string to pandas). These
# files show its faults: texts read as missing or as numbers, and an id that is there twice.
CORRECTED_VERDICTS = {
    "09_nan_text.csv": True,
    "10_literal_nan_words.csv": True,
    "13_numeric_text_all.csv": True,
    "18_duplicate_ids.csv": False,
    "25_bool_text.csv": True,
}


@pytest.fixture
def check(tmp_path, capsys):
    """Run the validator on some text: its exit status and the lines it prints."""

    def run(content: str | bytes, *options: str) -> tuple[int, list[str]]:
        path = tmp_path / "s.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        status = main([str(path), *options])
        captured = capsys.readouterr()
        return status, (captured.out + captured.err).splitlines()

    return run


@pytest.fixture
def annotation(tmp_path) -> str:
    path = tmp_path / "annotation.json"
    entries = [{"path": "x.wav", "testset_id": f"test{i:04d}"} for i in range(3)]
    path.write_text(json.dumps({"annotation": entries}))
    return str(path)


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict_equals_golden(name):
    is_valid = CORRECTED_VERDICTS.get(name, VERDICTS[name]["intended_valid"])
    assert main([str(GOLDEN_DIR / "csv" / name)]) == (0 if is_valid else 1)


def test_corrections_are_corrections():
    for name, is_valid in CORRECTED_VERDICTS.items():
        assert VERDICTS[name]["intended_valid"] is not is_valid


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "nan",
        "NaN",
        "NA",
        "n/a",
        "None",
        "#N/A",
        "-nan",
        "12",
        "1e5",
        "007",
        "True",
        "false",
    ],
)
def test_texts_are_the_text_they_are(check, text):
    status, lines = check(f"testset_id,text\ntest0000,{text}\ntest0001,{text}\n", "--strict")
    assert status == 0
    assert lines[-1].startswith("Validation passed")
    assert lines[-1].endswith("2 rows, 0 errors, 0 warnings (strict)")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("test000,a", "error: row 3: id 'test000' is not 'test' and four digits"),
        ("test00001,a", "error: row 3: id 'test00001' is not"),
        ("test000\u0663,a", "error: row 3: id 'test000\u0663' is not"),  # Arabic-Indic three
        ("test000\uff13,a", "error: row 3: id 'test000\uff13' is not"),  # full-width three
        ("Test0001,a", "error: row 3: id 'Test0001' is not"),
        (" test0001,a", "error: row 3: id ' test0001' is not"),
        ('"test0001\n",a', "error: row 3: id 'test0001\\n' is not"),
        ("test0000,a", "error: row 3: id 'test0000' is already in row 2"),
        ("test0001", "error: row 3: 1 fields instead of 2: 'test0001'"),
        (
            "test0001,a, b",
            "error: row 3: 3 fields instead of 2: 'test0001,a, b' (a text with commas",
        ),
        (
            'test0001,"a',
            "error: row 3: not readable as CSV: a quote opened in line 3 is never closed",
        ),
        ('test0001,"a"b', "error: row 3: not readable as CSV: "),
    ],
)
def test_bad_rows_are_named(check, row, message):
    status, lines = check(f"testset_id,text\ntest0000,first\n{row}\n")
    assert status == 1
    assert lines[0].startswith(message)
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a dog<|eot_id|>", "holds special token <|eot_id|>"),
        ("<|begin_of_text|>a", "holds special token <|begin_of_text|>"),
        ("a dog</s>", "holds special token </s>"),
        ("a <unk> dog", "holds special token <unk>"),
        ("[PAD] a", "holds special token [PAD]"),
        ("USER: what is it ASSISTANT: a dog", "holds prompt leftover ASSISTANT:, USER:"),
        (
            "<Speech><SpeechHere></Speech> a",
            "holds prompt leftover </Speech>, <Speech>, <SpeechHere>",
        ),
        ("", "is empty"),
        ('""', "is empty"),
        ("   ", "is empty"),
        ("la " * 400, f"has 1200 characters, more than {MAX_TEXT_CHARACTERS}"),
    ],
)
def test_suspicious_texts_are_warned_of(check, text, message):
    content = f"testset_id,text\ntest0000,fine\ntest0001,{text}\n"
    status, lines = check(content)
    assert status == 0
    assert lines[0] == f"warning: row 3: text of 'test0001' {message}"
    assert check(content, "--strict")[0] == 1


def test_every_problem_is_printed(check):
    status, lines = check('testset_id,text\nx,a\ntest0000,a,b\n\ntest0001,</s>\ntest0001,b\n"y\n')
    assert status == 1
    assert [line.split(":")[:2] for line in lines[:-1]] == [
        ["error", " row 2"],
        ["error", " row 3"],
        ["warning", " row 5"],  # a blank line counts as a row, and is otherwise no matter
        ["error", " row 6"],
        ["error", " row 7"],
    ]
    assert lines[-1].endswith("4 rows, 4 errors, 1 warnings")


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("", "the file is empty"),
        ("text,testset_id\n", "'text,testset_id', it must be 'testset_id,text'"),
        (",testset_id,text\n", "index=False"),
        ("testset_id, text\n", "no spaces"),
        ("testset_id,text,extra\n", "'testset_id,text,extra'"),
        ("TESTSET_ID,TEXT\n", "'TESTSET_ID,TEXT'"),
        ("test0000,hello\n", "'test0000,hello'"),
        ("testset_id\ttext\n", "it must be"),
    ],
)
def test_header_is_exact(check, header, hint):
    status, lines = check(header)
    assert status == 1
    assert lines[0].startswith("error: row 1: ")
    assert hint in lines[0]


@pytest.mark.parametrize("content", ["\ufefftestset_id,text\r\ntest0000,a\r\n", "testset_id,text"])
def test_mark_line_ends_and_missing_rows_are_no_errors(check, content):
    assert check(content)[0] == 0


@pytest.mark.parametrize(
    ("rows", "messages"),
    [
        (["test0000", "test0001", "test0002"], []),
        (
            ["test0000", "test0002", "test0001"],
            [
                "error: row 3: id 'test0002' where the annotation has 'test0001'",
                "error: row 4: id 'test0001' where the annotation has 'test0002'",
            ],
        ),
        (
            ["test0000", "test0009", "test0001"],
            [
                "error: row 3: id 'test0009' is not in the annotation",
                "error: id 'test0002' of the annotation is missing",
            ],
        ),
        (
            ["test0000"],
            [
                "error: 1 rows for 3 annotation entries",
                "error: id 'test0001' of the annotation is missing",
                "error: id 'test0002' of the annotation is missing",
            ],
        ),
        (
            ["test0000", "test0001", "test0001", "test0002"],
            [
                "error: row 4: id 'test0001' is already in row 3",
                "error: 4 rows for 3 annotation entries",
            ],
        ),
    ],
)
def test_annotation_fixes_ids_count_and_order(check, annotation, rows, messages):
    content = "testset_id,text\n" + "".join(f"{row},a\n" for row in rows)
    status, lines = check(content, "--annotation", annotation)
    assert lines[:-1] == messages
    assert status == (1 if messages else 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"testset_id,text\ntest0000,caf\xe9\n", "is not UTF-8: byte 0xe9 in line 2"),
        ("testset_id,text\ntest0000,a\n".encode("utf-16"), "is not UTF-8: byte 0xff in line 1"),
        (b"testset_id,text\ntest0000,\xed\xa0\x80\n", "is not UTF-8"),
    ],
)
def test_not_utf8_is_unusable(check, content, message):
    status, lines = check(content)
    assert status == 2
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "is not JSON"),
        ("[]", 'is not of the form {"annotation": [...]}'),
        ('{"annotation": {}}', "is not of the form"),
        (
            '{"annotation": [{"testset_id": "test0000"}, {"path": "a"}]}',
            "entry 1 has no testset_id",
        ),
        ('{"annotation": [{"testset_id": "a"}, {"testset_id": "a"}]}', "'a' is in entry 0 and in"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_bad_annotation_is_unusable(check, tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content)
    status, lines = check("testset_id,text\ntest0000,a\n", "--annotation", str(path))
    assert status == 2
    assert len(lines) == 1
    assert message in lines[0]


def test_missing_files_are_unusable(check, tmp_path, capsys):
    assert main([str(tmp_path / "none.csv")]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err
    status, lines = check("testset_id,text\n", "--annotation", str(tmp_path / "none.json"))
    assert status == 2
    assert "none.json" in lines[0]


ROW_PIECES = st.sampled_from(
    [
        "test0000",
        "test0001",
        ",",
        '"',
        "\n",
        "\r\n",
        "\r",
        "text",
        " ",
        "\0",
        "<|eot_id|>",
        "é",
        "\x85",
    ]
)


@settings(max_examples=300)
@given(
    st.booleans(),
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(str.encode),
        st.lists(ROW_PIECES, max_size=40).map("".join).map(str.encode),
    ),
)
def test_any_bytes_get_a_verdict(tmp_path_factory, has_header, content):
    path = tmp_path_factory.mktemp("fuzz") / "s.csv"
    path.write_bytes(b"testset_id,text\n" * has_header + content)
    try:
        problems, num_rows = find_problems(path)
    except UnusableInput:
        assert main([str(path)]) == 2
        return
    assert num_rows >= 0
    assert all("\n" not in str(problem) for problem in problems)
    has_error = any(not problem.is_warning for problem in problems)
    assert main([str(path)]) == (1 if has_error else 0)
    assert main([str(path), "--strict"]) == (1 if problems else 0)


def test_runs_alone_from_anywhere(tmp_path):
    path = GOLDEN_DIR / "csv" / "17_utf8_bom.csv"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for arguments, status in ([str(path)], 0), (["--help"], 0), (["none.csv"], 2), ([], 2):
        result = subprocess.run(
            [sys.executable, "-I", str(SCRIPT), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == status
        assert "Traceback" not in result.stderr


def test_imports_neither_the_package_nor_torch():
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in names}
    assert roots <= sys.stdlib_module_names | {"pandas"}
