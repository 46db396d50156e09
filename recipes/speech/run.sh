#!/usr/bin/env bash
# CPC on the real speech beside the checkout (SPEECH names another place), from its files to the comparison.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"
SPEECH=${SPEECH:-../shared/speech}

cpc data folder "$SPEECH/audio" data/speech --table "$SPEECH/meta/utterances.tsv" --first-centre 205
cpc train recipes/speech/cpc.yaml --name first
cpc probe phone runs/first data/speech --train phone_train --test phone_test
cpc probe speaker runs/first data/speech --train speaker_chapterdisjoint_train --test speaker_chapterdisjoint_test
cpc compare speech
