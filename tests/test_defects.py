"""Where each of the reference's 44 defects has its test (numbers as in docs/defects.md)."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
DOCS = TESTS.parent / "docs" / "defects.md"

# defect -> "file: test, test"
TABLE = {
    1: "test_config: test_no_retired_option_is_needed",
    2: "test_dataset: test_defect_02_other_sample_rates_load",
    3: "test_dataset: test_defect_03_unreadable_clip_is_never_replaced",
    4: "test_resume: test_defect_04_a_killed_run_goes_on_bit_for_bit",
    5: "test_train: test_learning_rate_never_saw_tooths",
    6: "test_train: test_defect_06_loss_is_a_mean_over_all_answer_tokens",
    7: "test_model: test_freezing, test_frozen_encoders_are_not_random_in_training",
    8: "test_train: test_defect_08_rank_alone_is_one_process, test_two_processes",
    9: "test_train: test_loggers_are_optional_and_offline",
    10: "test_train: test_defect_10_no_token_in_any_file",
    11: "test_model: test_attention_implementation_is_passed_on",
    12: "test_generation: test_long_answers_keep_their_end_symbol",
    13: "test_train: test_dry_run_trains_the_configured_model",
    14: "test_train: test_best_checkpoint_has_the_lowest_loss",
    15: "test_train: test_defect_15_run_folders_do_not_collide",
    16: "test_sampler: test_defect_16_evaluation_counts_each_clip_exactly_once",
    17: "test_prompts: test_defect_17_every_train_task_has_a_test_prompt",
    18: "test_checkpoint: test_nothing_frozen_and_nothing_twice",
    19: "test_generation: test_limit_counts_new_tokens",
    20: "test_generation: test_mixed_prompts_in_one_batch",
    21: "test_generation: test_each_row_stops_by_itself",
    22: "test_model: test_number_of_audio_tokens",
    23: "test_model: test_embeddings_of_a_batch_equal_singles",
    24: "test_evaluate: test_deprecated_flags_work_and_warn_once, test_device_that_is_not_there",
    25: "test_generation: test_nothing_is_kept_for_gradients",
    26: "test_generation: test_no_special_token_in_a_text",
    27: "test_evaluate: test_each_mode_writes_its_files",
    28: "test_caption_metrics: test_perfect_captions_score_the_ceiling_despite_case_and_stop",
    29: "test_asr_metrics: test_corpus_figure_equals_golden, test_known_values",
    30: "test_prompts: test_defect_30_question_is_filled_in, test_split_at_marker",
    31: "test_evaluate: test_crash_keeps_what_was_decoded_and_resume_decodes_the_rest",
    32: "test_model: test_options_train_and_generate, test_only_preprocessor",
    33: "test_checkpoint: test_all_bad_keys_are_in_one_message",
    34: "test_model: test_mel_bins_that_disagree",
    35: "test_efficiency: test_gpu_clock_marks_with_events_and_waits_at_both_ends_only",
    36: "test_efficiency: test_each_step_reads_one_token_on_the_prefills_cache",
    37: "test_efficiency: test_reported_peak_excludes_loading",
    38: "test_efficiency: test_phases_add_up_to_the_wall_time",
    39: "test_efficiency: test_report_holds_settings_samples_and_machine",
    40: "test_validator: test_texts_are_the_text_they_are",
    41: "test_validator: test_bad_rows_are_named, test_suspicious_texts_are_warned_of",
    42: "test_validator: test_runs_alone_from_anywhere",
    43: "test_web_demo: test_page_is_private_unless_asked, test_mistakes_are_messages",
    44: "test_inference: test_cli_survives_bad_paths",
}  # fmt: skip


def test_every_defect_is_in_the_table() -> None:
    assert sorted(TABLE) == list(range(1, 45))


@pytest.mark.parametrize("number", sorted(TABLE))
def test_named_tests_exist(number: int) -> None:
    file_name, names = TABLE[number].split(": ")
    tree = ast.parse((TESTS / f"{file_name}.py").read_text(encoding="utf-8"))
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set(names.split(", ")) <= found


def test_each_defect_is_described() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    assert [int(line.split("|")[1]) for line in lines if line[:3].strip("| ").isdigit()] == sorted(
        TABLE
    )
