#!/usr/bin/env bash
# The real run (docs/real-run.md): Whisper tiny.en's encoder and SmolLM2-135M-Instruct, a connector
# and a LoRA trained on recorded and synthetic speech, tested on recorded prompts never trained on.
#
#   ./scripts/real_run.sh
#
# Wants in real/models the folders whisper-tiny.en and smollm2-135m-instruct, and the recordings,
# their transcripts, English texts and flite where Debian puts them; SOUNDS, TRANSCRIPTS, ENGLISH and
# FLITE name other places. A second run reuses what is finished and goes on with what was interrupted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment requirements.txt

sounds="${SOUNDS:-/usr/share/asterisk/sounds/en_US_f_Allison}"
transcripts="${TRANSCRIPTS:-/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz}"
english="${ENGLISH:-/usr/share/games/fortunes}"
flite="${FLITE:-flite}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH="$PWD/audiolm-trainer${PYTHONPATH:+:$PYTHONPATH}"

announce() { printf '\n== %s  (%d s)\n' "$*" "$SECONDS"; }
# The newest finished run of an experiment: only a finished one has summary.json.
find_finished() {
    { ls -d real/runs/"$1"_[0-9]*/summary.json 2>/dev/null || true; } | sort | tail -n 1 | xargs -r dirname
}
last_checkpoint() { # of a finished experiment, whatever its validation loss
    find "$(find_finished "$1")" -name 'checkpoint_[0-9]*.pth' | sort -V | tail -n 1
}
train() { # experiment (its configuration's name, too), further options
    local experiment="$1"
    shift
    if [ -n "$(find_finished "$experiment")" ]; then
        echo "reusing $(find_finished "$experiment")"
    else
        "$VENV_PYTHON" audiolm-trainer/train.py --cfg-path "configs/$experiment.yaml" \
            --resume auto --options run.output_dir=real/runs "$@"
        if [ -z "$(find_finished "$experiment")" ]; then # interrupted: saved, and status 0
            echo "$experiment is not finished; the same command goes on with it" >&2
            exit 130
        fi
    fi
}

announce "1/6 corpus"
if [ ! -d real/corpus ]; then
    "$VENV_PYTHON" scripts/make_real_corpus.py -o real/corpus --sounds "$sounds" \
        --transcripts "$transcripts" \
        --english "$english"/{computers,definitions,education,humorists,law,linux,literature} \
        "$english"/{medicine,miscellaneous,news,people,platitudes,politics,science,songs-poems} \
        "$english"/{startrek,wisdom,work} --flite "$flite"
fi
# No sentence, file or sound of the test set may be in training.
for part in recorded joined long synthetic unread; do
    "$VENV_PYTHON" -m audiolm.data leaks "real/corpus/train_$part.json" real/corpus/test.json \
        --prefix real/corpus
done

announce "2/6 yardstick: Whisper's own word error rate"
"$VENV_PYTHON" scripts/transcribe_with_whisper.py --whisper real/models/whisper-tiny.en \
    --annotation real/corpus/test.json --prefix real/corpus -o real/whisper.json

announce "3/6 first stage: the connector, against the LLM's token embeddings"
train real_ctc
train real_ctc_long model.ckpt="$(last_checkpoint real_ctc)"
announce "4/6 second stage: connector and LoRA, by the LLM's answers"
train real_llm model.ckpt="$(last_checkpoint real_ctc_long)"
checkpoint="$(last_checkpoint real_llm)"

announce "5/6 word error rate on held-out prompts"
"$VENV_PYTHON" evaluate_salmonn.py --mode valid_asr --cfg-path configs/real_eval.yaml \
    --options model.ckpt="$checkpoint"

announce "6/6 speed, memory, submission"
"$VENV_PYTHON" evaluate_efficiency_salmonn.py --cfg-path configs/real_eval.yaml \
    --num_it 10 --num_warmup 2 --options model.ckpt="$checkpoint"
"$VENV_PYTHON" evaluate_salmonn.py --mode submission_asr --cfg-path configs/real_eval.yaml \
    --options model.ckpt="$checkpoint"
"$VENV_PYTHON" scripts/draw_run_curves.py "$(find_finished real_ctc)" \
    "$(find_finished real_ctc_long)" "$(find_finished real_llm)" -o real/curves.svg
"$VENV_PYTHON" submission_validator.py \
    "$(ls -t submission_results/*submission_asr*.csv | head -n 1)" \
    --annotation real/corpus/test.json
echo "model: $checkpoint"
