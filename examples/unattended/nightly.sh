#!/usr/bin/env bash
# Tile the scenes that are new in scenes/, embed their tiles, and index all of them; cron runs this, see crontab.
#
# Each step makes only what is missing, so a night that was stopped is made up for by the next one. Move a scene into
# scenes/ once it is whole, by a rename on the same file system. One that cannot be read does not keep the others from
# the index; it is tried again every night, its error is on stderr, and the exit status is 3, or 1 as long as none can
# be read.
#
# The index is built anew from all parts: it keeps scenes that have left scenes/, and has again what was deleted from
# it. A scene that was processed again needs another name.
set -euo pipefail
shopt -s nullglob
scenes=${SCENES:-$PWD/scenes} tiles=${TILES:-tiles} parts=${PARTS:-embedded} index=${INDEX:-lake.rsr}

found=("$scenes"/*)
((${#found[@]})) || exit 0 # no scene yet
status=0
rsr tile --quiet --keep-going "${found[@]}" --parts "$tiles" || status=$?
((status == 0 || status == 3)) || exit "$status"
rsr embed --quiet "$tiles" --parts "$parts"
rsr index --quiet "$parts" --overwrite -o "$index"
exit "$status"
