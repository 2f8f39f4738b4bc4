"""Encoders: what turns pixels into vectors. `registry` lists them and loads one; `run` embeds a stream of tiles."""
