#!/usr/bin/env bash
# The grid shared by the tasks of a Slurm array, each with a GPU of its own; any of them may be lost (docs/scaling.md).
#
#   hf-recipes annotate my-study.yaml          # once, before: on a node with a GPU
#   sbatch --array=1-8 grid.sh my-study.yaml [--key=value ...]
#
# The same again goes on with what is left. Change the lines below to what your cluster has.
#SBATCH --job-name=hf-recipes
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=hf-recipes-%A_%a.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?this is for sbatch}"   # the study folder lies below it, on a disk that all nodes share
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
export LOKY_MAX_CPU_COUNT="${SLURM_CPUS_PER_TASK:-1}"   # on CPUs the threads are part of a run's key: the same in each task
exec hf-recipes train "$@"
