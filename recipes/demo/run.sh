#!/usr/bin/env bash
# The main job on the embedded synthetic corpus, from nothing to a table. What is there already is reused.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"

cpc data synthetic data/demo
cpc train recipes/demo/cpc.yaml --name demo
cpc probe phone runs/demo data/demo --train phone_train --test phone_test --max-frames 100000
cpc probe speaker runs/demo data/demo --train speaker_train --test speaker_test --max-frames 60000
cpc compare demo
