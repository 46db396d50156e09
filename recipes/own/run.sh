#!/usr/bin/env bash
# CPC on your own recordings, from a folder of audio to features and a table: RECORDINGS=FOLDER recipes/own/run.sh
# Killed at any moment, the same command resumes. WORK: folder for data/, runs/ and features/. NAME: of the run. More words
# for a step: PACK="--speaker-from table --table people.tsv --trim 1", TRAIN="seed=1 training.max_steps=1000", PROBE.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PATH="$here/../../.venv/bin:$PATH"
RECORDINGS=$(cd "${RECORDINGS:?name your folder of recordings: RECORDINGS=FOLDER recipes/own/run.sh}" && pwd)
cd "${WORK:-$here/../..}"
NAME=${NAME:-own}

cpc data folder "$RECORDINGS" --out data/own ${PACK:-}
speakers=$(sed -n 's/.*"speakers": \([0-9]*\).*/\1/p' data/own/corpus.json)
if ((speakers > 1)); then valid=; else valid=data.val_fraction=0; fi # of one speaker nobody can be held out to validate on
cpc train "$here/cpc.yaml" --name "$NAME" $valid ${TRAIN:-}
cpc embed "runs/$NAME" "$RECORDINGS" "features/$NAME"
if ((speakers > 1)) && cpc data splits data/own --by utterance --name speaker; then
  cpc probe speaker "runs/$NAME" data/own --train speaker_train --test speaker_test ${PROBE:-}
fi
cpc compare own
