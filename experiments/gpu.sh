#!/bin/sh
# The experiments on dynamic negatives, weak pairs and the ablations at a size that wants a GPU, in pieces.
#
#   experiments/gpu.sh BASE DATA [OUTPUT]
#
# BASE is the folder of a plain encoder (a BERT-base or -large), DATA is laid out as in docs/data.md (finetune/,
# pretrain/, eval/), OUTPUT keeps everything (runs/gpu). A call ends after MINUTES (9) at the latest: the run in work
# saves a checkpoint, and the same call goes on from there. Exit status 0: all is done, tables are in OUTPUT; 75: call
# again; else something is wrong. SMALL=1 goes through everything with a few steps, to test the scripts themselves.
set -u
[ $# -ge 2 ] || { sed -n '2,10p' "$0"; exit 64; }
base=$1 data=$2 output=${3:-runs/gpu}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
end=$(($(date +%s) + ${MINUTES:-9} * 60 - 20))
mkdir -p "$output"

piece() { # name, then a command: run it with what time is left, once only
    name=$1
    shift
    [ -e "$output/$name.done" ] && return
    left=$((end - $(date +%s)))
    [ "$left" -gt 30 ] || { echo "$name: no time left; call again"; exit 75; }
    echo "== $name, at most $left s"
    timeout --signal=TERM --kill-after=15 "$left" "$@" | tee "$output/$name.txt"
    # A pipe hides the status of its first command: a finished piece is one that left its table.
    if grep -q '^|' "$output/$name.txt"; then
        touch "$output/$name.done"
    elif [ $(($(date +%s) + 5)) -ge "$end" ]; then
        echo "$name: not finished; call again"
        exit 75
    else
        echo "$name: failed" >&2
        exit 1
    fi
}

if [ -n "${SMALL:-}" ]; then
    dynamic="--steps 4 --seeds 0 --rows 40 --queries 4 --interval 2 --max-length 32 --arms static ranking"
    arms="--steps 3 --seeds 0 --rows 60 --queries 2 --max-length 24 --tasks reranking/TRECQA-en"
    set -- "fine-tuned only" "raw pairs first" "as it is" "no dense layer"
else
    dynamic="--steps 2000 --queries 64 --rows 2000 --interval 50 --max-length 256"
    arms="--steps 1000 --queries 64"
    set --
fi
# shellcheck disable=SC2086
piece dynamic-negatives "$python" "$here/dynamic_negatives.py" --base "$base" --data "$data" $dynamic \
    --output "$output/dynamic-negatives"
for kind in weak ablations; do
    # shellcheck disable=SC2086
    piece "$kind" "$python" "$here/weak_pairs_and_ablations.py" --base "$base" --data "$data" --only "$kind" $arms \
        ${1:+--arms "$@"} --output "$output/arms"
done
echo "all is done: $output"
