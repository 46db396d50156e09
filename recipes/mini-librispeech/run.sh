#!/usr/bin/env bash
# CPC on Mini LibriSpeech (train-clean-5 and dev-clean-2) from nothing to the comparison. What is there stays; killed at
# any moment, the same command goes on. WORK, NAME, FETCH, TRAIN and PROBE are those of recipes/librispeech/run.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PATH="$here/../../.venv/bin:$PATH"
cd "${WORK:-$here/../..}"
NAME=${NAME:-mini-librispeech}
corpus=data/mini-librispeech

python -m data_prep.librispeech train-clean-5 dev-clean-2 ${FETCH:-} --labels none
python -m data_prep.merge data/train-clean-5 data/dev-clean-2 --out $corpus
python -m data_prep.labels $corpus --align
python -m data_prep.splits $corpus --by speaker --name phone
python -m data_prep.splits $corpus --by chapter --within phone_train --name speaker
cpc train "$here/cpc.yaml" --name "$NAME" ${TRAIN:-}
cpc probe phone "runs/$NAME" $corpus --train phone_train --test phone_test ${PROBE:-}
cpc probe speaker "runs/$NAME" $corpus --train speaker_train --test speaker_test ${PROBE:-}
cpc compare mini-librispeech
