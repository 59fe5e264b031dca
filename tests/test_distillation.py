"""Learning from a teacher: the loss by its formula, the cache, refusals, and whole runs."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train as train_script
from training_runs import DEV, SMALL, arguments, read_log, run_folders, run_train

from audiolm.config_file import build_config, load_config, save_config
from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint
from audiolm.models.distillation import SoftTargets, compute_divergence, soften
from audiolm.models.salmonn import SALMONN, draw_training_prompts
from audiolm.training.setup import set_up_run
from audiolm.training.teacher import check_same_vocabulary
from audiolm.training.teacher_cache import TeacherCache
from tests.golden import Golden

TEACHER_CHECKPOINT = f"model.ckpt={DEV}/lora/checkpoint_0.pth"


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of the recorded model: the stack of `SMALL` with trained weights."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.yaml"
    overrides = [option for option in SMALL if option.startswith("model.")]
    config = load_config(DEV / "config_lora.yaml", [*overrides, TEACHER_CHECKPOINT])
    save_config(config, path)
    return path


def distil(teacher_path: Path, *more: str) -> tuple[str, ...]:
    return (f"run.distil.teacher={teacher_path}", *more)


def open_run(tmp_path: Path, *changes: str) -> Any:
    args = train_script.parse_arguments(arguments(tmp_path, *changes))
    return set_up_run(load_config(args.cfg_path, args.options, train_script.REQUIRED_PATHS))


# The loss


def targets_of(logits: torch.Tensor, temperature: float, top_k: int) -> SoftTargets:
    ids = logits.topk(top_k).indices if top_k else None
    num_entries = logits.shape[1]
    log_probs = soften(logits, num_entries, temperature, ids)
    return SoftTargets(log_probs, ids, num_entries, temperature, weight=0.5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_and_gradient_equal_the_formula(temperature: float) -> None:
    """T^2 sum p log(p / q), whose gradient by the student's logits is T (q - p)."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 6, 11, generator=generator)
    student.requires_grad_()
    p = (teacher.double() / temperature).softmax(-1)
    q = (student.detach().double() / temperature).softmax(-1)
    divergence = compute_divergence(student, targets_of(teacher, temperature, 0))
    expected = temperature**2 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(divergence.double(), expected, rtol=1e-5, atol=1e-6)
    divergence.sum().backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad.double(), temperature * (q - p), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_top_k_compares_the_teachers_tokens_and_one_rest(top_k: int) -> None:
    generator = torch.Generator().manual_seed(1)
    teacher, student = torch.randn(2, 6, 11, generator=generator)
    p, q = teacher.double().softmax(-1), student.double().softmax(-1)
    order = p.argsort(descending=True)
    p, q = p.gather(1, order), q.gather(1, order)

    def bucket(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :top_k], x[:, top_k:].sum(1, keepdim=True)], 1)

    p, q = bucket(p), bucket(q)
    divergence = compute_divergence(student, targets_of(teacher, 1.0, top_k))
    expected = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(divergence.double(), expected, rtol=1e-5, atol=1e-6)
    whole = compute_divergence(student, targets_of(teacher, 1.0, 0))
    assert (divergence <= whole + 1e-6).all()


@pytest.mark.parametrize("top_k", [0, 4])
def test_nothing_is_learned_from_oneself(top_k: int) -> None:
    logits = 5 * torch.randn(6, 50, generator=torch.Generator().manual_seed(2))
    targets = targets_of(logits, 1.0, top_k)
    student = torch.cat([logits, torch.full((6, 3), 9.0)], 1).requires_grad_()  # padded rows
    divergence = compute_divergence(student, targets)
    divergence.sum().backward()
    assert divergence.abs().max() < 1e-6
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_the_models_loss_is_mixed_by_weight(dev: Golden, dev_model: SALMONN) -> None:
    samples = dev.load_samples()
    prompts = dev.prompts("equal")
    plain = dev_model(samples, verbose=True, prompts=prompts)
    flat = torch.zeros(plain["total"], len(dev_model.llama_tokenizer))
    targets = dataclasses.replace(targets_of(flat, 2.0, 0), weight=0.25)
    mixed = dev_model(samples, verbose=True, prompts=prompts, soft_targets=targets)
    divergence = mixed["distil_sum"] / plain["total"]
    assert divergence > 0.1
    expected = 0.75 * plain["loss"].item() + 0.25 * divergence
    assert mixed["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(mixed["row_losses"], plain["row_losses"])


def test_a_teacher_that_is_the_student_leaves_no_gradient(
    teacher_path: Path, tmp_path: Path
) -> None:
    """All of the loss is the divergence, so that nothing else is in the gradient; in eval mode,
    since dropout makes the student another model."""
    run = open_run(tmp_path, *distil(teacher_path, "run.distil.weight=1", TEACHER_CHECKPOINT))
    assert run.teacher is not None
    run.model.eval()
    samples = next(run.batches)
    prompts = draw_training_prompts(run.model, samples)
    targets = run.teacher.judge(samples, prompts, run.model)
    output = run.model(samples, verbose=True, prompts=prompts, soft_targets=targets)
    output["loss"].backward()
    assert output["loss"].abs() < 1e-6
    plain_model = run.model(samples, verbose=True, prompts=prompts)
    sizes = [p.grad.norm() for p in run.trained if p.grad is not None]
    run.optimiser.zero_grad()
    plain_model["loss"].backward()
    plain_sizes = [p.grad.norm() for p in run.trained if p.grad is not None]
    assert torch.stack(sizes).norm() < 1e-4 * torch.stack(plain_sizes).norm()
    assert not any(p.requires_grad for p in run.teacher.load().parameters())
    assert not run.teacher.load().training
    run.accelerator.end_training()


# The teacher and its cache


def judge(run: Any, samples: dict[str, Any]) -> SoftTargets:
    return run.teacher.judge(samples, draw_training_prompts(run.model, samples), run.model)


def test_the_cache_gives_what_the_teacher_says(teacher_path: Path, tmp_path: Path) -> None:
    """Live, stored while it is computed, read by a run whose teacher is never built, and repaired
    where a file is damaged."""
    few = ("run.distil.top_k=5", "run.distil.temperature=2", "run.batch_size_train=5")
    live = open_run(tmp_path, *distil(teacher_path, *few))
    samples = next(live.batches)
    expected = judge(live, samples)
    cached = (*few, f"run.distil.cache={tmp_path / 'said'}")
    for _ in range(2):
        run = open_run(tmp_path, *distil(teacher_path, *cached))
        found = judge(run, samples)
        assert torch.equal(found.log_probs, expected.log_probs)
        assert found.token_ids is not None
        assert expected.token_ids is not None
        assert torch.equal(found.token_ids, expected.token_ids)
        run.accelerator.end_training()
    assert run.teacher._model is None
    files = sorted((tmp_path / "said").glob("*/??/*.safetensors"))
    assert len(files) == 5
    files[0].write_bytes(b"cut short")
    repaired = judge(run, samples)
    torch.testing.assert_close(repaired.log_probs, expected.log_probs, rtol=1e-5, atol=1e-5)
    assert files[0].stat().st_size > 100
    assert not list((tmp_path / "said").rglob("*.tmp"))


def test_the_cache_knows_prompt_answer_sound_and_teacher(
    teacher_path: Path, tmp_path: Path
) -> None:
    cache = f"run.distil.cache={tmp_path / 'said'}"
    options = (cache, "run.distil.top_k=2", "run.batch_size_train=1")
    run = open_run(tmp_path, *distil(teacher_path, *options))
    samples = next(run.batches)
    judge(run, samples)

    def count() -> int:
        return len(list((tmp_path / "said").glob("*/??/*.safetensors")))

    prompt = draw_training_prompts(run.model, samples)[0]
    run.teacher.judge(samples, [prompt + " now"], run.model)
    run.teacher.judge({**samples, "text": ["other"]}, [prompt], run.model)
    run.teacher.judge({**samples, "raw_wav": samples["raw_wav"] * 0.5}, [prompt], run.model)
    assert count() == 4
    run.teacher.judge(samples, [prompt], run.model)
    assert count() == 4
    other = open_run(tmp_path, *distil(teacher_path, *options, "run.distil.temperature=3"))
    assert other.teacher is not None
    assert len(list((tmp_path / "said").glob("*/description.json"))) == 2


def test_a_stored_answer_of_another_size_is_not_taken(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, 2)
    cache.write("abcd", (torch.zeros(3, 3), torch.zeros(3, 2, dtype=torch.long)))
    assert cache.read("abcd", 3) is not None
    assert cache.read("abcd", 4) is None
    assert TeacherCache(tmp_path, 1).read("abcd", 3) is None


def test_a_teacher_hears_without_the_students_masks(teacher_path: Path, tmp_path: Path) -> None:
    """SpecAugment's masks are on the batch's spectrogram; the teacher makes its own, as it does
    when it reads another number of mel bins."""
    masks = "datasets.augment.specaugment"
    augment = (f"{masks}.num_frequency_masks=3", f"{masks}.max_mask_bins=40")
    plain = open_run(tmp_path, *distil(teacher_path))
    masked = open_run(tmp_path, *distil(teacher_path, *augment))
    clean, changed = next(plain.batches), next(masked.batches)
    assert not torch.equal(clean["spectrogram"], changed["spectrogram"])
    torch.testing.assert_close(
        judge(masked, changed).log_probs, judge(plain, clean).log_probs, rtol=1e-5, atol=1e-5
    )


# Refusals


def test_another_vocabulary_is_refused(teacher_path: Path, tmp_path: Path) -> None:
    """Of the same size, with two entries exchanged."""
    llama = tmp_path / "llama"
    shutil.copytree(DEV / "components" / "llama", llama)
    tokenizer_path = llama / "tokenizer.json"
    content = json.loads(tokenizer_path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[20:22]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    tokenizer_path.write_text(json.dumps(content), encoding="utf-8")
    config = load_config(teacher_path)
    config.model.llama_path = str(llama)
    save_config(config, tmp_path / "other.yaml")
    with pytest.raises(UserError, match=r"another vocabulary.*2 differ, such as"):
        open_run(tmp_path, *distil(tmp_path / "other.yaml"))
    assert not run_folders(tmp_path)


def test_other_special_tokens_are_refused(dev_model: SALMONN) -> None:
    class Other:
        bos_token = dev_model.llama_tokenizer.bos_token
        eos_token = "<stop>"

        def get_vocab(self) -> dict[str, int]:
            return dev_model.llama_tokenizer.get_vocab()

    with pytest.raises(UserError, match="eos_token '<stop>'"):
        check_same_vocabulary(dev_model.llama_tokenizer, Other(), "t.yaml")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("run.distil.cache=said",), r"run\.distil\.top_k is 0"),
        (("run.distil.top_k=100000",), "is not below the vocabulary"),
        (("model.objective=ctc",), r"model\.objective: answer"),
        (("datasets.feature_cache=features",), "leave one of the two empty"),
    ],
)
def test_options_that_do_not_go_together(
    changes: tuple[str, ...], message: str, teacher_path: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_run(tmp_path, *distil(teacher_path, *changes))
    assert not run_folders(tmp_path)


def test_an_untrained_teacher_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    config = load_config(DEV / "config_lora.yaml", ["model.ckpt="])
    save_config(config, tmp_path / "untrained.yaml")
    with pytest.raises(UserError, match=r"has no model\.ckpt"):
        open_run(tmp_path, *distil(tmp_path / "untrained.yaml"))
    with pytest.raises(UserError, match=r"run\.distil\.teacher: nothing at"):
        open_run(tmp_path, *distil(tmp_path / "nowhere.yaml"))


def test_weight_is_a_share() -> None:
    with pytest.raises(UserError, match=r"run\.distil\.weight: 2\.0 is above 1"):
        build_config({"run": {"distil": {"weight": 2.0}}})


# Whole runs

SPLIT = (
    "model.qformer.dropout=0", "run.optims.max_grad_norm=0", "run.distil.weight=0.7",
    "run.distil.temperature=2",
)  # fmt: skip


def gradients(tmp_path: Path, teacher_path: Path, size: int, number: int) -> torch.Tensor:
    """All gradients of the first step of `number` micro-batches of `size` clips."""
    split = (f"run.batch_size_train={size}", f"run.accum_grad_iters={number}")
    run = open_run(tmp_path, *distil(teacher_path, *SPLIT, *split))
    run.model.train()
    train_script.train_step(run, [next(run.batches) for _ in range(number)])
    run.accelerator.end_training()
    return torch.cat([p.grad.flatten() for p in run.trained if p.grad is not None])


def test_any_split_of_a_step_has_its_gradient(teacher_path: Path, tmp_path: Path) -> None:
    whole = gradients(tmp_path, teacher_path, 8, 1)
    split = gradients(tmp_path, teacher_path, 1, 8)
    assert whole.norm() > 1e-3
    assert (split - whole).norm() / whole.norm() < 1e-6


def losses(folder: Path) -> list[tuple[int, float, float]]:
    records = [record for record in read_log(folder) if record["event"] == "train"]
    return [(record["step"], record["loss"], record["distil_loss"]) for record in records]


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    is_cached: bool, teacher_path: Path, tmp_path: Path
) -> None:
    few = ("run.distil.top_k=6", "run.log_freq=1", "run.save_every_steps=1")
    options = distil(teacher_path, *few)
    if is_cached:
        options = (*options, f"run.distil.cache={tmp_path / 'said'}")
    train_script.main(arguments(tmp_path / "straight", *options))
    (straight,) = run_folders(tmp_path / "straight")
    stopped = shutil.copytree(straight, tmp_path / "stopped" / straight.name)
    for path in ("summary.json", "checkpoint_1.state", "checkpoint_step3.state"):
        (stopped / path).unlink()
    expected = losses(straight)
    assert len(expected) == 4
    assert all(distil_loss > 0 for _, _, distil_loss in expected)
    kept = [r for r in read_log(stopped) if r["event"] != "train" or r["step"] < 2]
    lines = "".join(json.dumps(record) + "\n" for record in kept)
    (stopped / "log.jsonl").write_text(lines, encoding="utf-8")
    train_script.main(arguments(tmp_path / "stopped", *options, "--resume", str(stopped)))
    assert losses(stopped)[-2:] == expected[-2:]


def test_two_processes_distil_like_one(teacher_path: Path, tmp_path: Path) -> None:
    """A clip each, and one cache for both; then one process with two clips."""
    few = (
        "run.distil.top_k=6",
        "run.log_freq=1",
        "run.optims.max_epoch=1",
        "run.iters_per_epoch=3",
    )
    cached = (*few, f"run.distil.cache={tmp_path / 'said'}", "model.qformer.dropout=0")
    two, one = tmp_path / "two", tmp_path / "one"
    options = distil(teacher_path, *cached, "run.batch_size_train=1")
    run_train(two, *options, num_processes=2)
    train_script.main(arguments(one, *distil(teacher_path, *cached, "run.batch_size_train=2")))
    folders = [folder for place in (two, one) for folder in run_folders(place)]
    np.testing.assert_allclose(losses(folders[0]), losses(folders[1]), rtol=1e-4)
    assert len(losses(folders[0])) == 3
    first, second = (read_checkpoint(f / "checkpoint_0.pth")["model"] for f in folders)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=1e-6)


def test_runs_without_a_teacher_do_not_log_one(tmp_path: Path) -> None:
    train_script.main(arguments(tmp_path, "run.optims.max_epoch=1"))
    (folder,) = run_folders(tmp_path)
    assert all("distil_loss" not in record for record in read_log(folder))


def test_dry_run_and_plan_take_the_option(
    teacher_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = distil(teacher_path, "run.distil.top_k=8", f"run.distil.cache={tmp_path / 'said'}")
    train_script.main([*arguments(tmp_path, *options), "--dryrun"])
    assert "dry run passed" in capsys.readouterr().out
    assert not (tmp_path / "said").exists()
    train_script.main([*arguments(tmp_path, *options), "--plan"])
    assert "run.distil.teacher: its weights take another" in capsys.readouterr().out
