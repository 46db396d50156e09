#!/usr/bin/env bash
# CPC on Mini LibriSpeech (train-clean-5 and dev-clean-2) from nothing to the comparison. What is there stays; killed at
# any moment, the same command resumes. WORK, NAME, FETCH, TRAIN and PROBE are those of recipes/librispeech/run.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PATH="$here/../../.venv/bin:$PATH"
cd "${WORK:-$here/../..}"
NAME=${NAME:-mini-librispeech}
corpus=data/train-clean-5,data/dev-clean-2 # two folders, read as one

cpc data librispeech train-clean-5 dev-clean-2 ${FETCH:-} --labels none
for part in ${corpus//,/ }; do cpc data labels "$part" --align; done
cpc data splits $corpus --by speaker --name phone
cpc data splits $corpus --by chapter --within phone_train --name speaker
cpc train "$here/cpc.yaml" --name "$NAME" ${TRAIN:-}
cpc probe phone "runs/$NAME" $corpus --train phone_train --test phone_test ${PROBE:-}
cpc probe speaker "runs/$NAME" $corpus --train speaker_train --test speaker_test ${PROBE:-}
cpc compare mini-librispeech
