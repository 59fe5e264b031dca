#!/usr/bin/env bash
# From a bare machine to a validated submission: makes .venv, a demo corpus and a tiny random model
# stack, trains it in two stages, scores it on unseen voices, sentences and scenes, times it, and
# writes and checks submission files. Everything it makes is in demo/ and the two results folders.
#
#   ./scripts/quickstart.sh
#
# A second run reuses what is finished; after an interruption it goes on from the last epoch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment requirements.txt

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH="$PWD/audiolm-trainer${PYTHONPATH:+:$PYTHONPATH}"
started=$SECONDS

announce() { printf '\n== %s  (%d s)\n' "$*" "$((SECONDS - started))"; }

# The newest finished run of an experiment: only a finished one has summary.json.
find_finished() {
    { ls -d demo/runs/"$1"_*/summary.json 2>/dev/null || true; } | sort | tail -n 1 | xargs -r dirname
}
last_checkpoint() { # of a finished experiment: stages go on from it, whatever its validation loss
    find "$(find_finished "$1")" -name 'checkpoint_[0-9]*.pth' | sort -V | tail -n 1
}

# One process per core, at most two, sharing batches of 32 clips.
launch=("$VENV_PYTHON" audiolm-trainer/train.py)
batch_size=32
if [ "$(nproc 2>/dev/null || echo 1)" -ge 2 ]; then
    launch=("$VENV_PYTHON" -m torch.distributed.run --standalone --nproc_per_node=2
        audiolm-trainer/train.py)
    batch_size=16
    export OMP_NUM_THREADS=1
fi

stop_unless_finished() { # experiment; training that was interrupted has saved, and ends with status 0
    [ -n "$(find_finished "$1")" ] && return
    echo "$1 is not finished; the same command goes on with it" >&2
    exit 130
}
train_stage() { # experiment, config, further options
    local experiment="$1" config="$2" folder
    shift 2
    folder="$(find_finished "$experiment")"
    if [ -n "$folder" ]; then
        echo "reusing $folder"
    else
        "${launch[@]}" --cfg-path "$config" --resume auto --options run.output_dir=demo/runs \
            run.exp_name="$experiment" run.batch_size_train="$batch_size" "$@"
        stop_unless_finished "$experiment"
    fi
}

announce "1/7 demo corpus: speech and sound scenes"
"$VENV_PYTHON" -m audiolm.data make-demo -o demo/corpus

announce "2/7 nano stack: tiny random Whisper, BEATs and Llama in the formats of the real ones"
"$VENV_PYTHON" scripts/make_nano_stack.py -o demo/stack --texts demo/corpus/texts.txt \
    --prompts audiolm-trainer/prompts/{train,test}_prompt.json --tasks asr audiocaption_v2 \
    --connector configs/nano_train_stage1.yaml

announce "3/7 stage 1: the ten digits, then words, short phrases and single sounds"
train_stage nano_digits configs/nano_train_stage1.yaml run.optims.max_epoch=8 \
    datasets.train_ann_path=demo/corpus/train_digits.json
train_stage nano_stage1 configs/nano_train_stage1.yaml \
    model.ckpt="$(last_checkpoint nano_digits)"

announce "4/7 stage 2: whole sentences and scenes"
train_stage nano_stage2 configs/nano_train_stage2.yaml model.ckpt="$(last_checkpoint nano_stage1)"
checkpoint="$(find_finished nano_stage2)/checkpoint_best.pth"

announce "5/7 scores on voices, sentences and scenes that training never heard"
for mode in valid_asr valid_aac; do
    "$VENV_PYTHON" evaluate_salmonn.py --mode "$mode" --cfg-path configs/nano_eval.yaml \
        --options model.ckpt="$checkpoint"
done

announce "6/7 speed and memory"
"$VENV_PYTHON" evaluate_efficiency_salmonn.py --cfg-path configs/nano_eval.yaml \
    --num_it 30 --num_warmup 5 --options model.ckpt="$checkpoint"

announce "7/7 submission files, checked"
for task in asr aac; do
    "$VENV_PYTHON" evaluate_salmonn.py --mode "submission_$task" \
        --cfg-path configs/nano_eval.yaml --options model.ckpt="$checkpoint"
    "$VENV_PYTHON" submission_validator.py "$(ls -t submission_results/*submission_"$task"*.csv | head -n 1)" \
        --annotation "demo/corpus/test_$task.json"
done

announce "done"
echo "model:        $checkpoint"
echo "training:     $(find_finished nano_stage1)/log.jsonl and $(dirname "$checkpoint")/log.jsonl"
echo "scores:       valid_results/"
echo "efficiency:   efficiency_results/"
echo "submissions:  submission_results/"
