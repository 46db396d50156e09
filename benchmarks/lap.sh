#!/usr/bin/env bash
# All GPU work of a release in six minutes: tests, throughput against the goals, one training with its probes. It prints one page
# for benchmarks/tables.md (On a GPU). CORPUS: a packed corpus with phone and speaker splits (else the synthetic one is made). PYTHON: which
# one. DEVICE=cpu with TINY=1 shows that it runs where there is no GPU.
#
#     CORPUS=data/speech benchmarks/lap.sh > lap.md
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo "$PWD/.venv/bin/python" || echo python3)}
DEVICE=${DEVICE:-cuda}
TINY=${TINY:-}
CORPUS=${CORPUS:+$(realpath "$CORPUS")}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cpc() { (cd "$work" && "$PYTHON" -m cpc "$@"); } # its run, and what MLflow keeps of it, go with the folder

echo "## A lap: $("$PYTHON" -c "from cpc.device import device, device_name; print(device_name(device('$DEVICE')))")"
echo
echo "$(date -u +%Y-%m-%d), $("$PYTHON" -c 'import torch; print("torch", torch.__version__)'), $(git rev-parse --short HEAD 2>/dev/null || echo "no commit")"

section() { printf '\n### %s\n\n```text\n' "$1"; }
finish() { printf '```\n%s s\n' "$((SECONDS - began))"; }

began=$SECONDS
section "Tests"
if [ "$DEVICE" = cpu ]; then echo "no GPU: its tests are skipped"; else
  "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda tests/training tests/evaluation 2>&1 | tail -15 || true
fi
finish

began=$SECONDS
section "Throughput, idle, floor; the criterion beside the gathered one"
if [ -n "$TINY" ]; then "$PYTHON" -m benchmarks.gpu --device "$DEVICE" --steps 1 --most 8 --memory 2; else
  "$PYTHON" -m benchmarks.gpu --device "$DEVICE"
fi
finish

began=$SECONDS
section "One training, preset small, and its probes"
phones=(--train phone_train --test phone_test)
speakers=(--train speaker_train --test speaker_test)
if [ -z "$CORPUS" ]; then
  CORPUS=$work/demo
  cpc data synthetic "$CORPUS" --hours "$([ -n "$TINY" ] && echo 0.3 || echo 2)" 2> /dev/null | tail -1
fi
if [ -f "$CORPUS/splits/speaker_chapterdisjoint_train.txt" ]; then
  speakers=(--train speaker_chapterdisjoint_train --test speaker_chapterdisjoint_test)
fi
train=$([ -f "$CORPUS/splits/pretrain_libri.txt" ] && echo pretrain_libri || echo pretrain)
steps=$([ -n "$TINY" ] && echo 5 || echo 3000)
size=$([ -n "$TINY" ] && echo 8 || echo 64)
frames=$([ -n "$TINY" ] && echo 5000 || echo 60000)
cpc train small experiment=lap data.corpus="$CORPUS" data.train="$train" data.val_fraction=0.03 data.batch_size="$size" \
  training.device="$DEVICE" training.max_steps="$steps" training.validate_every="$steps" --name lap 2>&1 | tail -4
cpc probe phone runs/lap "$CORPUS" "${phones[@]}" --device "$DEVICE" --max-frames "$frames" 2>/dev/null | grep -v '^note'
cpc probe speaker runs/lap "$CORPUS" "${speakers[@]}" --device "$DEVICE" --max-frames "$frames" 2>/dev/null | grep -v '^note'
finish
echo
echo "in all: $SECONDS s"
