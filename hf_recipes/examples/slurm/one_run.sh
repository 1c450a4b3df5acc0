#!/usr/bin/env bash
# Every batch of a run over several nodes, for encoders that are too slow on one; for all others take grid.sh.
#
#   sbatch --nodes=2 one_run.sh my-study.yaml --train.distribute=batches --train.accelerate_config=my-nodes.yaml
#
# my-nodes.yaml is a copy of hf_recipes/recipes/accelerate/multi-node.yaml with the numbers of this job.
#SBATCH --job-name=hf-recipes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
#SBATCH --output=hf-recipes-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?this is for sbatch}"
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
export LOKY_MAX_CPU_COUNT="${SLURM_CPUS_PER_TASK:-1}"
MAIN=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # which reads all: head would end scontrol, and with it the job
export MAIN
# shellcheck disable=SC2016  # each node has a rank of its own
srun bash -c 'exec hf-recipes train "$@" --machine-rank "$SLURM_NODEID" --main-process-ip "$MAIN"' hf-recipes "$@"
