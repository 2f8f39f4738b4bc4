#!/usr/bin/env bash
# Embed tiles with GNU parallel, JOBS shards at a time on this machine, and index them:
#
#     JOBS=4 ./parallel.sh
#
# A shard that fails does not stop the others, and is tried a second time; if it fails again, nothing is indexed, the
# exit status is the number of such shards, and PARTS.log names them. Run the script again: it makes what is missing.
# parallel's own --resume is not for this, for it would pass over shards whose tiles have become more.
#
# TILES, PARTS, INDEX and SHARDS may be set in the environment, and any option of rsr (RSR_EMBED_MODEL=rcf).
set -euo pipefail

tiles=${TILES:-tiles.parquet} parts=${PARTS:-embedded} index=${INDEX:-lake.rsr} shards=${SHARDS:-8}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # as JOBS processes share the cores

seq 0 $((shards - 1)) |
    parallel --quote --jobs "${JOBS:-100%}" --retries 2 --joblog "$parts.log" \
        rsr embed --quiet "$tiles" --parts "$parts" --shard "{}/$shards"
rsr index "$parts" --overwrite -o "$index"
