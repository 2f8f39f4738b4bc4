#!/bin/sh
# From a scene to an index, to hits and to their measure: no download, a few megabytes in demo/, under a minute.
#
# `make demo` runs it in the project's own environment. Elsewhere rsr and its Python have to be in the PATH. Run again,
# it writes the same files again.
set -eu
# shellcheck disable=SC3040  # some shells have it
(set -o pipefail) 2> /dev/null && set -o pipefail

cd "$(dirname "$0")/.."

step() { # TEXT COMMAND: say what comes, show the command, run it
    printf '\n# %s\n%s\n' "$1" "$2"
    eval "$2"
}

step 'Draw a landscape: six bands (scene.tif) and its land cover (mask.tif)' \
    'python examples/synthetic_scene.py write demo --size 1024'

step 'Cut it into tiles, and label them by the land cover' \
    'rsr tile demo/scene.tif --size 64 --min-valid 0.5 --quiet |
    python examples/synthetic_scene.py label demo/mask.tif > demo/tiles.geojsonl'

step 'Encode the tiles, turn the embeddings into binary codes, and index them' \
    'rsr embed demo/tiles.geojsonl --model rcf |
    rsr binarize --method sign |
    tee demo/codes.geojsonl |
    rsr index --overwrite -o demo/lake.rsr'

step 'What looks like the first tile with a lake?' \
    "grep -m 1 '\"lake\"' demo/codes.geojsonl |
    rsr query demo/lake.rsr -k 12 --exclude-self --overwrite -o demo/lake-hits.geojsonl"

step 'Ask for every tile, and measure how often the hits show the same land cover' \
    'rsr query demo/lake.rsr demo/codes.geojsonl -k 20 --exclude-self --overwrite -o demo/hits.geojsonl
rsr score demo/hits.geojsonl --truth demo/tiles.geojsonl --exclude-self'

cat << EOF

"random" is what a ranking in random order scores. The files are in $PWD/demo:

    scene.tif           the scene; mask.tif is its land cover
    tiles.geojsonl      $(grep -c . demo/tiles.geojsonl) labelled tiles
    codes.geojsonl      the tiles with their binary codes
    lake.rsr            the index
    lake-hits.geojsonl  the 12 tiles that look most like one with a lake
    hits.geojsonl       the 20 that look most like each tile

To look at them, drag scene.tif (true colour: bands 3, 2, 1) and lake-hits.geojsonl into QGIS; rank orders the hits.
EOF
