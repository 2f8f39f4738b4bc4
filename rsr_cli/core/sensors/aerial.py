"""Photographs: red, green and blue in 8 bits."""

from __future__ import annotations

from rsr_cli.core.sensors.base import Sensor


class Photograph(Sensor):
    """Colours as displays show them."""

    def check_stated(self, stated: Sensor | None) -> None:
        """Accept every sensor's product: many contain a true-colour image."""


SENSORS = (
    Photograph("rgb", "8-bit red, green, blue", {}, ("red", "green", "blue"), scale=10000 / 255, dtypes=("uint8",)),
)
