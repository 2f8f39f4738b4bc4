#!/usr/bin/env bash
# Embed tiles in the eight tasks of a SLURM array, and index what they made once all of them have succeeded:
#
#     array=$(sbatch --parsable slurm-array.sh)
#     sbatch --dependency=afterok:"$array" --kill-on-invalid-dep=yes slurm-index.sh
#
# If tasks 2 and 5 died (out of time or memory, a node that failed), submit these alone, and the index after them. They
# make only what is missing:
#
#     array=$(sbatch --parsable --array=2,5 slurm-array.sh)
#
# TILES and PARTS name other files than these, and any option of rsr can be set in the environment too:
#
#     TILES=lakes.parquet PARTS=lakes RSR_EMBED_WEIGHTS=Prithvi_EO_V1_100M.pt sbatch slurm-array.sh
#
#SBATCH --job-name=rsr-embed
#SBATCH --array=0-7
#SBATCH --cpus-per-task=1
#SBATCH --mem=8G
#SBATCH --time=12:00:00
#SBATCH --output=%x-%a.log
#SBATCH --open-mode=append
set -euo pipefail

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
# slurm/8 and not slurm/$SLURM_ARRAY_TASK_COUNT, which is 2 when two tasks are submitted again
exec rsr embed "${TILES:-tiles.parquet}" --parts "${PARTS:-embedded}" --shard slurm/8
