#!/usr/bin/env bash
# Trains on several nodes: sbatch --nodes 2 --gpus-per-node 8 recipes/librispeech/slurm.sh, from the checkout. RECIPE,
# NAME, WORK and TRAIN as in run.sh, which prepares the corpus; all nodes must share WORK. Shortly before its time is
# over the job saves and goes back into the queue; there, and after preemption or the loss of a node, it resumes.
#SBATCH --job-name=cpc
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
here=${SLURM_SUBMIT_DIR:?"submit this with sbatch, from the checkout"}
export PATH="$here/.venv/bin:$PATH"
cd "${WORK:-$here}"
RECIPE=${RECIPE:-100}
NAME=${NAME:-librispeech-$RECIPE}

gpus=${SLURM_GPUS_ON_NODE:-1}
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / gpus))
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # or a restart could find addresses of processes that have ended
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$gpus" --max-restarts 3 \
  --rdzv-backend c10d --rdzv-endpoint "${nodes[0]}:$((20000 + SLURM_JOB_ID % 10000))" \
  --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  -m cpc train "$here/recipes/librispeech/$RECIPE.yaml" --name "$NAME" ${TRAIN:-} && exit
# A signal stopped it (then run.json says KILLED), or it failed, and would fail again.
grep -q '"status": "KILLED"' "runs/$NAME/run.json" && scontrol requeue "$SLURM_JOB_ID"
