#!/bin/sh
# Everything that is to be measured on a GPU, in pieces, from a checkout and the folder that benchmarks/gpu_bundle.py
# makes; or as run.sh in such a folder that has the code in it.
#
#   sh benchmarks/gpu_run.sh measure|negatives|negatives-in-batch ... [--device cpu --small] [--only PART ...] [--resume]
#
# The pieces run one after the other and end together after SECONDS_LEFT (540); what they have done by then is in OUT.
# They need python3 (PYTHON) with torch, transformers and sentence-transformers, no network and no installation. BUNDLE
# (gpu-bundle in the checkout) holds the other packages, a model and data; WORK (/tmp/conan-gpu) models and checkpoints,
# from which the same call resumes (`measure` with --resume); OUT (./out) gets the few small files worth keeping, none of
# which is overwritten. Exit status 75: not finished, call again.
set -u
here=$(cd "$(dirname "$0")" && pwd)
pieces= small=
while [ $# -gt 0 ]; do
    case $1 in
        measure | negatives | negatives-in-batch) pieces="$pieces $1" ;;
        -*) break ;;
        *) echo "$1: unknown; measure, negatives or negatives-in-batch" >&2; exit 64 ;;
    esac
    shift
done
[ -n "$pieces" ] || { sed -n '5,13p' "$0"; exit 64; }
for option; do [ "$option" = --small ] && small=1; done
if [ -d "$here/code" ]; then code=$here/code bundle=$here; else code=$(dirname "$here") bundle=; fi
bundle=${BUNDLE:-${bundle:-$code/gpu-bundle}}
[ -e "$bundle/packages.tar.xz" ] || { echo "$bundle: no bundle; make it with benchmarks/gpu_bundle.py" >&2; exit 66; }
bundle=$(cd "$bundle" && pwd)
work=${WORK:-/tmp/conan-gpu} out=${OUT:-out} python=${PYTHON:-python3}
mkdir -p "$work" "$out"
work=$(cd "$work" && pwd) out=$(cd "$out" && pwd)
end=$(($(date +%s) + ${SECONDS_LEFT:-540} - 10))
packages= # those carried are for Python 3.12; another one has to bring its own
[ "$("$python" -c 'import sys; print(*sys.version_info[:2])')" = "3 12" ] && packages=":$work/packages"
export PYTHONPATH="$code$packages" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
cd "$code" || exit 1

if [ ! -e "$work/ready" ]; then
    "$python" benchmarks/gpu_bundle.py unpack "$bundle" "$work" || exit 1
    touch "$work/ready"
fi
"$python" -c 'import conan_embed, polars, torch, transformers; print(torch.__version__, transformers.__version__)' || exit 1

limited() { # a command, for the time that is left
    left=$((end - $(date +%s)))
    [ "$left" -gt 20 ] || return 75
    timeout --signal=TERM --kill-after=10 "$left" "$@"
}

unused() { # the first of NAME.END, NAME-2.END, ... that is not in OUT yet
    free=$out/$1.$2 number=1
    while [ -e "$free" ]; do
        number=$((number + 1))
        free=$out/$1-$number.$2
    done
    echo "$free"
}

measure() { # the script keeps its own time, a little shorter
    left=$((end - $(date +%s)))
    table=$(unused measure md) lines=$(unused measure jsonl) logs=$(unused measure-logs tar.gz)
    limited "$python" -m benchmarks.gpu --seconds $((left - 10)) --folder "$work/measure" "$@" > "$table"
    status=$?
    cat "$table"
    [ -d "$work/measure" ] || return $status
    cat "$work/measure"/*.jsonl | sort -u > "$lines" # of parts that were killed, too
    tar -czf "$logs" -C "$work/measure" $(cd "$work/measure" && ls | grep '\.log$')
    [ $status = 124 ] && return 75
    return $status
}

experiment() { # the experiment on hard negatives, with further options
    size="--layers 4 --train-queries 8000" settings="step.queries=48 step.num_negatives=4 training.checkpoint_every=500"
    base=
    if [ -n "$small" ]; then
        size="--layers 2 --train-queries 64 --held-out-queries 40" base="--set-base training.steps=4 step.queries=8"
        settings="step.queries=16 step.num_negatives=2 training.epochs=1 mining.depth=40"
    fi
    # Several runs at a time: each tokenises with one thread.
    limited env TOKENIZERS_PARALLELISM=false "$python" experiments/hard-negatives/run.py --base "$work/model" \
        --data "$bundle/data" --output "$work/negatives" $size $base --set $settings "$@"
}

negatives() { # scope (what a query's negatives are beside its own), seeds, jobs, arms
    scope=$1 seeds=$2 jobs=$3 name=$(echo "$1" | tr -d "'" | tr ' ' -)
    shift 3
    experiment --scope "$scope" --seeds $seeds --jobs "$jobs" --arms "$@" --against "$1" > "$work/table-$name.md"
    status=$?
    if [ -d "$work/negatives/$name" ]; then
        tar -czf "$(unused "negatives-$name" tar.gz)" -C "$work/negatives" $(cd "$work/negatives" && find "$name" -size -2000k \
            \( -name 'seed-*.json' -o -name 'metrics.jsonl' -o -name 'negatives.jsonl' -o -name 'seed-*.log' \))
    fi
    [ $status = 0 ] && tee "$(unused "negatives-$name" md)" < "$work/table-$name.md"
    case $status in 124 | 137 | 2) return 75 ;; *) return $status ;; esac
}

run() { # a piece, and options of `measure`
    piece=$1 seeds="0 1 2"
    shift
    [ -n "$small" ] && seeds="0 1"
    case $piece in
        measure) measure "$@" ;;
        negatives) # two waves of nine; eight at a time already fill an H200
            negatives own "$seeds" "${JOBS:-9}" "static, bound" "bank, share, bound" "remine, share, bound" \
                "in-batch only" "ranking, v1, bound" "ranking, v2, bound"
            ;;
        negatives-in-batch)
            negatives "data set" "$seeds" "${JOBS:-12}" "static, bound" "bank, share, bound" "remine, share, bound" \
                "in-batch only"
            ;;
    esac
}

worst=0
for piece in $pieces; do
    run "$piece" "$@"
    status=$?
    echo "$piece: status $status" >&2
    [ $status -gt $worst ] && worst=$status
done
exit $worst
