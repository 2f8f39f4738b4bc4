#!/bin/sh
# From a scene to an index, to hits, to their scores and to a page of thumbnails: no download, a few megabytes in
# demo/, under a minute.
#
# `make demo` runs this in the project's own environment. Elsewhere, rsr and its Python must be in the PATH. Every run
# finds the same hits.
set -eu
# shellcheck disable=SC3040  # not every shell has it
(set -o pipefail) 2> /dev/null && set -o pipefail

cd "$(dirname "$0")/.."

step() { # TEXT COMMAND: announce the step, print the command, run it
    printf '\n# %s\n%s\n' "$1" "$2"
    eval "$2"
}

step 'Make a synthetic landscape: six bands (scene.tif) and its land cover (mask.tif)' \
    'python examples/synthetic_scene.py write demo --size 1024'

step 'Cut it into tiles, and label them by their land cover' \
    'rsr tile demo/scene.tif --size 64 --min-valid 0.5 --quiet |
    python examples/synthetic_scene.py label demo/mask.tif > demo/tiles.geojsonl'

step 'Embed the tiles, turn the embeddings into binary codes, and index them' \
    'rsr embed demo/tiles.geojsonl --model rcf |
    rsr binarize |
    tee demo/codes.geojsonl |
    rsr index --overwrite -o demo/lake.rsr'

step 'Find the tiles that look most like the first one with a lake' \
    "grep -m 1 '\"lake\"' demo/codes.geojsonl |
    rsr query demo/lake.rsr -k 12 --exclude-self --overwrite -o demo/lake-hits.geojsonl"

step 'Find the tiles that look most like each tile, and score how often they have the same land cover' \
    'rsr query demo/lake.rsr demo/codes.geojsonl -k 20 --exclude-self --overwrite -o demo/hits.geojsonl
rsr score demo/hits.geojsonl --truth demo/tiles.geojsonl --exclude-self'

step 'Draw the hits of the first tiles as a page' \
    'rsr show demo/hits.geojsonl --queries demo/tiles.geojsonl --rows 12 --overwrite -o demo/hits.html'

cat << END

The column "random" is the score of a random ranking. The files are in $PWD/demo:

    scene.tif           the scene; mask.tif is its land cover
    tiles.geojsonl      $(grep -c . demo/tiles.geojsonl) labelled tiles
    codes.geojsonl      the tiles with their binary codes
    lake.rsr            the index
    lake-hits.geojsonl  the 12 tiles that look most like one with a lake
    hits.geojsonl       the 20 tiles that look most like each tile
    hits.html           the hits of 12 tiles

To see the lakes on a map, drag scene.tif (true colour: bands 3, 2, 1) and lake-hits.geojsonl into QGIS.
To see the hits, open this page in a browser:

    $PWD/demo/hits.html
END
