"""Configuration files: the reference's load unchanged, and mistakes are told in one line."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from audiolm.config import Config, ModelConfig
from audiolm.config_file import (
    build_config,
    build_model_config,
    dump_config,
    flatten,
    list_corpora,
    load_config,
    save_config,
)
from audiolm.errors import UserError
from audiolm.models.build import resolve_adapter
from tests.golden import GOLDEN_DIR

ROOT = Path(__file__).resolve().parent.parent
SWEEPS = set((ROOT / "configs").glob("*sweep.yaml"))  # lists of overrides: tests/test_sweep.py
SHIPPED = sorted(set((ROOT / "configs").glob("*.yaml")) - SWEEPS)
RECORDED = [
    GOLDEN_DIR / "dev" / "config_lora.yaml",
    GOLDEN_DIR / "dev" / "config_vblora.yaml",
    GOLDEN_DIR / "nobeats" / "config_lora.yaml",
]
PREFIX = ["datasets.prefix=a=b"]  # an equals sign in a value
MODEL_PATHS = ("model.llama_path", "model.whisper_path")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a YAML file and return its path."""

    def write(text: str, name: str = "config.yaml") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


# Files that users have


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_files_of_the_reference_load_unchanged(path: Path) -> None:
    config = load_config(path, required=MODEL_PATHS)
    assert resolve_adapter(config.model) == "lora"
    assert (config.model.audio_tokens, config.model.whisper_input) == ("fixed", "padded")
    assert config.model.quantization == "none"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    values = flatten(config)
    for section, options in written.items():
        for name, value in options.items():
            key = f"{section}.{name}"
            is_plain = isinstance(value, (bool, int, float)) and key in values
            assert not is_plain or values[key] == value, key
    assert config.run.optims.init_lr == written["run"]["optims"]["init_lr"]
    assert config.model.prompt_template == "USER: {}\nASSISTANT:"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load(path: Path) -> None:
    config = load_config(path)
    assert build_config(yaml.safe_load(dump_config(config))) == config


def test_shipped_files_use_one_end_symbol() -> None:
    """Training and evaluation must agree, or the model never stops."""
    assert SHIPPED
    end_symbols = {load_config(path).model.end_sym for path in SHIPPED}
    end_symbols |= {load_config(path).generate.end_sym for path in SHIPPED}
    assert len(end_symbols - {""}) <= 1


def test_retired_options_are_accepted_with_one_warning(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = write("model: {lora_16bit: true, device_8bit: 0}\nrun: {world_size: 2}")
    with caplog.at_level(logging.WARNING):
        config = load_config(path)
    assert config == Config()
    (record,) = caplog.records
    for part in ("model.lora_16bit", "model.device_8bit", "run.world_size", "torchrun"):
        assert part in record.getMessage()


def test_no_retired_option_is_needed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build_config({"model": {"lora": True}})
    assert not caplog.records


def test_other_spelling_of_beats_path(write: Any) -> None:
    config = load_config(write("model: {beat_path: some/beats.pt}"))
    assert config.model.beats_path == "some/beats.pt"


def test_null_means_the_default(write: Any) -> None:
    path = write("model: {token: null, lora_rank: null, qformer: null}\nrun: {optims: null}")
    assert load_config(path) == Config()


def test_empty_file(write: Any) -> None:
    assert load_config(write("")) == Config()


# Meaning of options that work together


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "lora"),
        ({"lora": False}, "none"),
        ({"lora": True, "adapter": False}, "lora"),
        ({"lora": False, "adapter": False}, "none"),
        ({"adapter": True}, "hra"),
        ({"lora": False, "adapter": "vblora"}, "vblora"),
        ({"adapter": "none"}, "none"),
        ({"adapter": None}, "lora"),
    ],
)
def test_adapter(options: dict[str, Any], expected: str) -> None:
    assert resolve_adapter(build_model_config(options)) == expected


# Overrides


@pytest.mark.parametrize(
    "words",
    [
        ["run.seed=7", "run.optims.init_lr=1e-3", "model.lora=false", *PREFIX],
        ["run.seed", "7", "run.optims.init_lr", "1e-3", "model.lora", "false", *PREFIX],
        ["run.seed", "7", "model.lora=false", "run.optims.init_lr", "1e-3", *PREFIX],
    ],
    ids=["assignments", "pairs", "mixed"],
)
def test_overrides(words: list[str], write: Any) -> None:
    config = load_config(write("run: {seed: 1, log_freq: 9}"), words)
    assert (config.run.seed, config.run.log_freq) == (7, 9)
    assert config.run.optims.init_lr == 1e-3
    assert config.model.lora is False
    assert config.datasets.prefix == "a=b"


def test_structured_overrides(write: Any) -> None:
    words = ["model.ckpt=[a.pth, b.pth]", "run.loggers=[wandb]", "model.qformer.num_heads=4"]
    config = load_config(write(""), words)
    assert config.model.ckpt == ["a.pth", "b.pth"]
    assert config.run.loggers == ["wandb"]
    assert config.model.qformer.num_heads == 4


def test_override_without_a_value(write: Any) -> None:
    with pytest.raises(UserError, match="--options: 'run.seed' has no value; write run.seed=VALUE"):
        load_config(write(""), ["model.lora=true", "run.seed"])


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {lama_path: x}", "unknown option model.lama_path: did you mean llama_path?"),
        ("modle: {}", "unknown option modle: did you mean model?"),
        ("run: {optims: {max_epochs: 3}}", "run.optims.max_epochs: did you mean max_epoch?"),
        ("model: {qformer: {width: 3}}", "model.qformer.width: allowed: hidden_size, num_heads"),
        ("run: {seed: soon}", "run.seed: Value 'soon' of type 'str' could not be converted"),
        ("model: {lora: maybe}", "model.lora: .*maybe"),
        ("run: {optims: 3}", "run.optims: expected a mapping of options, found 3"),
        ("run: {batch_size_train: 0}", "run.batch_size_train: 0 is below 1"),
        ("model: {second_per_window: -1}", "model.second_per_window: -1.0 is below 0.02"),
        ("model: {second_per_window: 31}", "model.second_per_window: 31.0 is above 30"),
        ("model: {quantization: int4}", "model.quantization: 'int4' is none of none, int8, nf4"),
        ("model: {adapter: lorra}", "model.adapter: 'lorra' is none of lora, dora, vblora, hra"),
        ("model: {audio_tokens: aware}", "model.audio_tokens: 'aware' is none of fixed"),
        ("run: {loggers: [mlflow]}", "run.loggers: 'mlflow' is none of tensorboard, wandb"),
        ("run: {optims: {schedule: step}}", "run.optims.schedule: 'step' is none of cosine"),
        ("run: {seed: -1}", "run.seed: -1 is below 0"),
        ("run: {batch_seconds: -1}", "run.batch_seconds: -1.0 is below 0"),
        ("datasets: {task_temperature: 0}", "task_temperature: 0.0 is below 0.1"),
        ("datasets: {train_ann_path: 3}", "train_ann_path: 3 is no annotation; give a path or"),
        ("datasets: {train_ann_path: [{weight: 2}]}", "{'weight': 2} is no annotation"),
        (
            "datasets: {train_ann_path: [{path: a.json, wieght: 2}]}",
            "a.json has the key 'wieght'; allowed: path, weight",
        ),
        (
            "datasets: {train_ann_path: [b.json, {path: a.json, weight: 0}]}",
            "a.json has the weight 0; it must be a number above 0",
        ),
        ("datasets: {augment: {sped: [1, 1]}}", "datasets.augment.sped: did you mean speed?"),
        (
            "datasets: {augment: {speed: [0.1, 1.1]}}",
            r"datasets.augment.speed: \[0.1, 1.1\] is not \[low, high\] between 0.5 and 2, or",
        ),
        ("datasets: {augment: {gain_db: [3, -3]}}", r"augment.gain_db: \[3.0, -3.0\] is not"),
        ("datasets: {augment: {noise_snr_db: [10]}}", r"noise_snr_db: \[10.0\] is not \[low"),
        ("datasets: {augment: {noise_share: 2}}", "noise_share: 2.0 is above 1"),
        ("datasets: {augment: {noise_colour: red}}", "noise_colour: 'red' is none of pink, white"),
        (
            "datasets: {augment: {specaugment: {max_mask_bins: -1}}}",
            "specaugment.max_mask_bins: -1 is below 0",
        ),
        ("- model", "expected sections model, datasets, run, found a list"),
        ("model: {llama_path: [", r"config.yaml: while parsing(.|\n)*, line 2"),
    ],
)
def test_mistakes(text: str, message: str, write: Any) -> None:
    path = write(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_all_unknown_options_are_listed(write: Any) -> None:
    with pytest.raises(UserError) as caught:
        load_config(write("model: {lorra: 1, becams: 2}\nrun: {sede: 3}"))
    for name in ("model.lorra", "model.becams", "run.sede"):
        assert name in str(caught.value)


def test_mistake_in_an_override(write: Any) -> None:
    with pytest.raises(UserError, match="run.sed: did you mean seed?"):
        load_config(write(""), ["run.sed=3"])


def test_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no configuration file at .*nowhere.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_model_section_of_another_kind() -> None:
    with pytest.raises(UserError, match="model: expected a mapping of options, found int"):
        build_model_config(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="unknown option model.lorra: did you mean lora"):
        build_model_config({"lorra": True})
    assert build_model_config(ModelConfig(lora_rank=2)).lora_rank == 2


# Paths


@pytest.fixture
def two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The current directory, and the folder of the configuration file."""
    here, beside = tmp_path / "here", tmp_path / "configs"
    here.mkdir()
    beside.mkdir()
    monkeypatch.chdir(here)
    return here, beside


def test_relative_paths(two_places: tuple[Path, Path]) -> None:
    """First from the current directory, then from the file's folder; made absolute."""
    here, beside = two_places
    path = beside / "config.yaml"
    path.write_text("model: {ckpt: [a.pth, b.pth], beats_path: c.pt, prompt_path: none.json}")
    for place in (here / "a.pth", beside / "a.pth", beside / "b.pth", beside / "c.pt"):
        place.touch()
    model = load_config(path).model
    assert model.ckpt == [str(here / "a.pth"), str(beside / "b.pth")]
    assert model.beats_path == str(beside / "c.pt")
    assert model.prompt_path == "none.json"  # nobody said that it will be read


@pytest.mark.parametrize(
    "key", ["model.llama_path", "model.beats_path", "model.ckpt", "datasets.train_ann_path"]
)
def test_missing_path_names_both_places(key: str, two_places: tuple[Path, Path]) -> None:
    here, beside = two_places
    path = beside / "config.yaml"
    path.write_text("model: {llama_path: org/model, whisper_path: openai/whisper-large-v3}")
    required = {"model.llama_path", "model.whisper_path", key} - {"model.beats_path", "model.ckpt"}
    missing = "some/other/place.pt"  # too deep for a hub id
    with pytest.raises(UserError) as caught:
        load_config(path, [f"{key}={missing}"], sorted(required))
    message = str(caught.value)
    assert message.startswith(f"{key}: nothing at ")
    assert str(here / missing) in message
    assert str(beside / missing) in message


def test_training_annotations_are_resolved_in_every_form(two_places: tuple[Path, Path]) -> None:
    here, beside = two_places
    path = beside / "config.yaml"
    (here / "a.json").touch()
    (beside / "b.json").touch()
    (beside / "noise").mkdir()
    required = ("datasets.train_ann_path",)
    forms = {
        "a.json": [(str(here / "a.json"), 1.0)],
        "[a.json, b.json]": [(str(here / "a.json"), 1.0), (str(beside / "b.json"), 1.0)],
        "[{path: b.json, weight: 2}, {path: a.json}]": [
            (str(beside / "b.json"), 2.0),
            (str(here / "a.json"), 1.0),
        ],
    }
    for form, expected in forms.items():
        path.write_text(f"datasets: {{train_ann_path: {form}, augment: {{noise_dir: noise}}}}")
        config = load_config(path, required=required)
        assert list_corpora(config.datasets.train_ann_path) == expected
        assert config.datasets.augment.noise_dir == str(beside / "noise")
        again = build_config(yaml.safe_load(dump_config(config)))
        assert again == config
    for form in ("[a.json, c.json]", "[{path: c.json, weight: 2}]"):
        path.write_text(f"datasets: {{train_ann_path: {form}}}")
        with pytest.raises(UserError, match=r"datasets\.train_ann_path: nothing at .*c\.json"):
            load_config(path, required=required)
    path.write_text("datasets: {train_ann_path: []}")
    with pytest.raises(UserError, match="datasets.train_ann_path is not set"):
        load_config(path, required=required)


def test_hub_ids_are_left_alone(write: Any) -> None:
    path = write("model: {llama_path: org/model-3B, whisper_path: openai/whisper-large-v3}")
    model = load_config(path, required=MODEL_PATHS).model
    assert (model.llama_path, model.whisper_path) == ("org/model-3B", "openai/whisper-large-v3")


def test_required_path_that_is_not_set(write: Any) -> None:
    with pytest.raises(UserError, match="model.llama_path is not set; .* --options model.llama_p"):
        load_config(write(""), required=MODEL_PATHS)


# Writing


def test_saved_configuration_has_every_option_but_the_token(tmp_path: Path) -> None:
    secret = "a-token-that-must-stay-here"
    config = build_config({"model": {"token": secret, "lora_rank": 3}, "run": {"seed": 5}})
    save_config(config, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert secret not in text
    assert "token" not in yaml.safe_load(text)["model"]
    again = load_config(tmp_path / "config.yaml")
    assert again == dataclasses.replace(config, model=dataclasses.replace(config.model, token=""))


def test_a_path_in_both_places_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        (folder / "llm").mkdir(parents=True)
    path = beside / "x.yaml"
    path.write_text("model: {llama_path: llm}\n", encoding="utf-8")
    monkeypatch.chdir(beside)
    load_config(path)
    assert not caplog.records
    monkeypatch.chdir(here)
    assert load_config(path).model.llama_path == str(here / "llm")
    assert "the first is taken" in caplog.text
