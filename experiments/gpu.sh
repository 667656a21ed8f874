#!/bin/sh
# The experiments on hard negatives, the small model, both stages and the ablations at a size that needs a GPU, in pieces.
#
#   experiments/gpu.sh BASE DATA [OUTPUT]
#
# BASE is the folder of a plain encoder (of BERT's layers, 33 M parameters or more), DATA is laid out as in docs/data.md (finetune/,
# pretrain/, eval/), OUTPUT keeps everything (runs/gpu). A call ends after MINUTES (9) at the latest: the run in work
# saves a checkpoint, and the same call goes on from there. Exit status 0: all is done, tables are in OUTPUT; 75: call
# again; else something is wrong. ONLY="hard-negatives small-model" runs those whose names begin so. SMALL=1 goes through
# everything but the small model with a few steps, to test the scripts themselves.
# shellcheck disable=SC2086  # settings are lists of words
set -u
[ $# -ge 2 ] || { sed -n '2,11p' "$0"; exit 64; }
base=$1 data=$2 output=${3:-runs/gpu}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export CONAN_BASE="$base" CONAN_DATA="$data"
end=$(($(date +%s) + ${MINUTES:-9} * 60 - 20))
mkdir -p "$output"

piece() { # name, then a command: run it with what time is left, once only
    name=$1
    shift
    [ -e "$output/$name.done" ] && return
    wanted=${ONLY:+no}
    for start in ${ONLY:-}; do case $name in "$start"*) wanted= ;; esac; done
    [ -z "$wanted" ] || return 0
    left=$((end - $(date +%s)))
    [ "$left" -gt 30 ] || { echo "$name: no time left; call again"; exit 75; }
    echo "== $name, at most $left s"
    # A pipe hides the status of its first command.
    { timeout --signal=TERM --kill-after=15 "$left" "$@"; echo $? > "$output/$name.status"; } | tee "$output/$name.txt"
    status=$(cat "$output/$name.status")
    case $status in
        0) touch "$output/$name.done" ;;
        124 | 137) echo "$name: not finished; call again"; exit 75 ;;
        *) echo "$name: failed with status $status" >&2; exit 1 ;;
    esac
}

arms() { # name of the piece, then ablate or sweep, then settings
    name=$1 command=$2
    shift 2
    piece "$name" "$python" -m conan_embed "$command" "$here/fine-tuning.yaml" $settings "$@" --seeds "$seeds" \
        --output "$output/$name"
}

hard_negatives() { # scope of negatives, then arms
    scope=$1
    shift
    name=hard-negatives-$(echo "$scope" | tr -d "'" | tr ' ' -)
    piece "$name" "$python" "$here/hard-negatives/run.py" --base "$base" --data "$data" --output "$output/hard-negatives" \
        --scope "$scope" --against "static, bound" --arms "$@" --seeds $spaced --jobs "${JOBS:-4}" $hard
}

if [ -n "${SMALL:-}" ]; then
    seeds=0
    tasks="reranking/TRECQA-en sts/STS13-en"
    few="data.retrieval.0.limit=20 data.retrieval.1.limit=20 data.retrieval.0.corpus=null data.retrieval.1.corpus=null
        mining.offset=1 step.queries=4 step.sts_pairs=4"
    hard="--layers 2 --train-queries 64 --held-out-queries 40 --set-base training.steps=4 step.queries=8 --set
        step.queries=16 step.num_negatives=2 training.epochs=1 mining.depth=40"
    dynamic="--steps 4 --rows 40 --queries 4 --interval 2 --max-length 32 --arms static ranking"
    stages="--steps 3 --fine-tuning-steps 3 --rows 60 --max-length 24 --tasks $tasks
        --pre-training step.queries=4 --fine-tuning $few"
    settings="training.steps=2 model.max_length=24 $few step.too_few_negatives=allow
        evaluation.tasks=[reranking/TRECQA-en,sts/STS13-en]"
else
    seeds=0,1,2
    # All layers and passages, 2,500 steps: about 65 million tokens an arm.
    hard="--layers 12 --train-queries 40000 --held-out-queries 5000 --set-base training.steps=2000 model.max_length=128 --set
        model.max_length=128 step.queries=48 training.epochs=3 hard_negatives.interval=167"
    dynamic="--steps 2000 --queries 64 --rows 2000 --interval 50 --max-length 256"
    stages="--steps 2000 --fine-tuning-steps 1000 --rows 60000 --max-length 256 --pre-training step.queries=512
        --fine-tuning step.queries=64 step.num_negatives=7 step.sts_pairs=64 hard_negatives.interval=50
        data.retrieval.0.limit=null data.retrieval.1.limit=null"
    settings="training.steps=1024 model.max_length=256 step.queries=64 step.num_negatives=7 step.sts_pairs=64
        hard_negatives.interval=50 data.retrieval.0.limit=null data.retrieval.1.limit=null"
fi
spaced=$(echo "$seeds" | tr , ' ')
hard_negatives own "static, bound" "bank, share, bound" "remine, share, bound" "ranking, v1, bound" "ranking, v2, bound"
hard_negatives "data set" "static, bound" "bank, share, bound" "remine, share, bound" "in-batch only"
hard_negatives "paper's sum" "static, bound" "bank, share, bound" "remine, share, bound"
if [ -z "${SMALL:-}" ]; then
    for part in --look ""; do
        piece "small-model$part" "$python" "$here/small-model/run.py" --base "$base" --data "$data" \
            --output "$output/small-model" $part
    done
fi
piece dynamic-negatives "$python" "$here/dynamic_negatives.py" --base "$base" --data "$data" --seeds $spaced $dynamic \
    --output "$output/dynamic-negatives"
piece stages "$python" "$here/stages.py" --base "$base" --data "$data" --seeds $spaced $stages --output "$output/stages"
arms ablation ablate
arms in-batch sweep step.in_batch=dataset,none
arms negatives sweep step.num_negatives=7,3,1
arms offset sweep mining.offset=10,0
arms widths sweep "model.dense_width+model.widths=1792+[256,512,1024],1792+[],null+[]"
echo "all is done: $output"
