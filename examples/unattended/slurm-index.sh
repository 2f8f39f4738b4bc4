#!/usr/bin/env bash
# Index what the tasks of slurm-array.sh made. If a shard is missing or not complete, this names it and fails, and an
# index that is there already stays as it is.
#
#SBATCH --job-name=rsr-index
#SBATCH --cpus-per-task=1
#SBATCH --mem=8G
#SBATCH --time=2:00:00
#SBATCH --output=%x.log
#SBATCH --open-mode=append
set -euo pipefail

exec rsr index "${PARTS:-embedded}" --overwrite -o "${INDEX:-lake.rsr}"
