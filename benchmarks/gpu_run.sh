#!/bin/sh
# Everything that is to be measured on a GPU, in pieces; lies as run.sh in the folder that benchmarks/gpu_bundle.py makes.
#
#   sh run.sh measure|negatives|negatives-in-batch [--device cpu --small] [--only PART ...]
#
# A piece ends after SECONDS_LEFT (540); what it has done by then is in OUT. It needs python3 (PYTHON) with torch,
# transformers and sentence-transformers, no network and no installation. WORK (/tmp/conan-gpu) holds models and
# checkpoints, from which the same call resumes; OUT (./out) gets the few small files worth keeping. Exit status 75: not
# finished, call again.
set -u
here=$(cd "$(dirname "$0")" && pwd)
piece=${1:?measure, negatives or negatives-in-batch}
shift
small=
for option; do [ "$option" = --small ] && small=1; done
work=${WORK:-/tmp/conan-gpu} out=${OUT:-out} python=${PYTHON:-python3}
mkdir -p "$work" "$out"
out=$(cd "$out" && pwd)
end=$(($(date +%s) + ${SECONDS_LEFT:-540} - 10))
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
    [ "$left" -gt 20 ] || return 75
    timeout --signal=TERM --kill-after=10 "$left" "$@"
}

measure() { # the script keeps its own time, a little shorter
    left=$((end - $(date +%s)))
    limited "$python" -m benchmarks.gpu --seconds $((left - 10)) --folder "$work/measure" "$@" > "$out/measure.md"
    status=$?
    cat "$out/measure.md"
    cat "$work/measure"/*.jsonl | sort -u > "$out/measure.jsonl" # of parts that were killed, too
    tar -czf "$out/measure-logs.tar.gz" -C "$work/measure" $(cd "$work/measure" && ls | grep '\.log$')
    return $status
}

experiment() { # the experiment on hard negatives, with further options
    size="--layers 4 --train-queries 8000" settings="step.queries=48 step.num_negatives=4 training.checkpoint_every=500"
    base=
    if [ -n "$small" ]; then
        size="--layers 2 --train-queries 64 --held-out-queries 40" base="--set-base training.steps=4 step.queries=8"
        settings="step.queries=16 step.num_negatives=2 training.epochs=1 mining.depth=40"
    fi
    limited "$python" experiments/hard-negatives/run.py --base "$work/model" --data "$here/data" \
        --output "$work/negatives" $size $base --set $settings "$@"
}

negatives() { # scope (what a query's negatives are beside its own), seeds, jobs, arms
    scope=$1 seeds=$2 jobs=$3 name=$(echo "$1" | tr -d "'" | tr ' ' -)
    shift 3
    experiment --scope "$scope" --seeds $seeds --jobs "$jobs" --arms "$@" --against "$1" > "$work/table-$name.md"
    status=$?
    [ $status = 0 ] && cp "$work/table-$name.md" "$out/negatives-$name.md"
    tar -czf "$out/negatives-$name.tar.gz" -C "$work/negatives" $(cd "$work/negatives" &&
        find "$name" \( -name 'seed-*.json' -o -name 'metrics.jsonl' -o -name 'seed-*.log' \) -size -2000k)
    case $status in 0) cat "$out/negatives-$name.md" ;; 124 | 137 | 2) return 75 ;; *) return $status ;; esac
}

seeds="0 1 2" jobs=${JOBS:-12} # eight already fill an H200; more only end later
[ -n "$small" ] && seeds="0 1"
case $piece in
    measure) measure "$@" ;;
    negatives)
        negatives own "$seeds" $jobs "static, bound" "bank, share, bound" "remine, share, bound" "in-batch only" \
            "ranking, v1, bound" "ranking, v2, bound"
        ;;
    negatives-in-batch)
        negatives "data set" "$seeds" $jobs "static, bound" "bank, share, bound" "remine, share, bound" "in-batch only"
        ;;
    *) echo "$piece: unknown; measure, negatives or negatives-in-batch" >&2; exit 64 ;;
esac
