#!/usr/bin/env bash
# CPC on LibriSpeech from nothing to the comparison: RECIPE=dev-clean (to try), 100, 360 or 960. What is there stays;
# killed at any moment, the same command resumes. WORK: folder for data/ and runs/. NAME: of the run. More words for a
# step: FETCH="--source URL_OR_DIR --no-keep-archives" or "--from DIR", TRAIN="seed=1 training.max_steps=1000", PROBE.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PATH="$here/../../.venv/bin:$PATH"
cd "${WORK:-$here/../..}"
RECIPE=${RECIPE:-dev-clean}
NAME=${NAME:-librispeech-$RECIPE}
case $RECIPE in
  dev-clean) probed=data/dev-clean ;;
  100 | 360 | 960) probed=data/train-clean-100 ;;
  *) echo "error: RECIPE=$RECIPE: must be dev-clean, 100, 360 or 960" >&2; exit 2 ;;
esac

cpc data librispeech "${probed#data/}" ${FETCH:-}
for by in utterance chapter; do cpc data splits $probed --by $by --name $by; done
case $RECIPE in
  360) cpc data librispeech train-clean-360 ${FETCH:-} --labels none ;;
  960) cpc data librispeech train-clean-360 train-other-500 ${FETCH:-} --labels none ;;
esac
cpc train "$here/$RECIPE.yaml" --name "$NAME" ${TRAIN:-}
cpc probe phone "runs/$NAME" $probed --train utterance_train --test utterance_test ${PROBE:-}
for by in utterance chapter; do
  cpc probe speaker "runs/$NAME" $probed --train ${by}_train --test ${by}_test ${PROBE:-}
done
cpc compare librispeech
