#!/bin/sh
# Everything that is to be measured on a GPU, in pieces; lies as run.sh in the folder that benchmarks/gpu_bundle.py makes.
#
#   sh run.sh measure|negatives|negatives-in-batch [--device cpu --small]
#
# A piece ends after MINUTES (9). It needs python3 (PYTHON) with torch, transformers and sentence-transformers, no
# network and no installation. WORK (/tmp/conan-gpu) holds models and checkpoints, from which the same call resumes;
# OUT (./out) gets the few small files worth keeping. Exit status 75: not finished, call again.
set -u
here=$(cd "$(dirname "$0")" && pwd)
piece=${1:?measure, negatives or negatives-in-batch}
shift
small=
for option; do [ "$option" = --small ] && small=1; done
work=${WORK:-/tmp/conan-gpu} out=${OUT:-out} python=${PYTHON:-python3}
mkdir -p "$work" "$out"
out=$(cd "$out" && pwd)
end=$(($(date +%s) + ${MINUTES:-9} * 60 - 10))
packages= # those carried are for Python 3.12; another one has to bring its own
[ "$("$python" -c 'import sys; print(*sys.version_info[:2])')" = "3 12" ] && packages=":$work/packages"
export PYTHONPATH="$here/code$packages" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$here/code" || exit 1

if [ ! -e "$work/ready" ]; then
    "$python" benchmarks/gpu_bundle.py unpack "$here" "$work" || exit 1
    touch "$work/ready"
fi
"$python" -c 'import conan_embed, polars, torch, transformers; print(torch.__version__, transformers.__version__)' || exit 1

limited() { # a command, for the time that is left
    left=$((end - $(date +%s)))
    [ "$left" -gt 20 ] || exit 75
    timeout --signal=TERM --kill-after=10 "$left" "$@"
}

measure() {
    limited "$python" -m benchmarks.gpu --minutes "${MINUTES:-9}" --folder "$work/measure" "$@" > "$out/measure.md"
    status=$?
    cat "$out/measure.md"
    cp "$work/measure/results.jsonl" "$out/measure.jsonl"
    tar -czf "$out/measure-logs.tar.gz" -C "$work/measure" $(cd "$work/measure" && ls | grep '\.log$')
    return $status
}

negatives() { # scope: what a query's negatives are beside its own (experiments/hard-negatives)
    scope=$1 name=$(echo "$1" | tr -d "'" | tr ' ' -)
    arms="static 'ranking, v1' 'ranking, v2' 'bank, share' 'remine, share' 'in-batch only'"
    size="--layers 4 --train-queries 16000"
    settings="step.queries=96 step.num_negatives=7 training.checkpoint_every=500"
    base=
    seeds="0 1 2"
    if [ -n "$small" ]; then
        arms="static 'ranking, v1'" size="--layers 2 --train-queries 64 --held-out-queries 40" seeds="0 1"
        settings="step.queries=16 step.num_negatives=2 training.epochs=1 mining.depth=40"
        base="--set-base training.steps=4 step.queries=8"
    fi
    so_far=
    for seed in $seeds; do # so that each seed leaves a table
        so_far="$so_far $seed"
        eval limited "$python" experiments/hard-negatives/run.py --base "$work/model" --data "$here/data" \
            --output "$work/negatives" --scope "'$scope'" --seeds $so_far --arms $arms $size $base --set $settings \
            > "$work/table.md"
        status=$?
        case $status in 0) ;; 124 | 137) return 75 ;; *) return $status ;; esac
        cp "$work/table.md" "$out/negatives-$name.md"
        tar -czf "$out/negatives-$name.tar.gz" -C "$work/negatives" \
            $(cd "$work/negatives" && find . -name '*.json' -size -2000k -not -path '*/model/*' -not -path './cache/*')
    done
    cat "$out/negatives-$name.md"
}

case $piece in
    measure) measure "$@" ;;
    negatives) negatives own ;;
    negatives-in-batch) negatives "data set" ;;
    *) echo "$piece: unknown; measure, negatives or negatives-in-batch" >&2; exit 64 ;;
esac
