"""The newest quote of each instrument.

Each has a *place* that stays where it is, so that who brings its ticks finds it once, and not at each tick.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibkr_service.core.events import Tick
    from ibkr_service.core.instrument import AnyInstrument


class Place:
    """Where the newest quote of one instrument is; None before the first one."""

    __slots__ = ("tick",)

    def __init__(self) -> None:
        self.tick: Tick | None = None


class Quotes(MutableMapping["AnyInstrument", "Tick"]):
    """What has been quoted so far, by instrument."""

    def __init__(self) -> None:
        self._places: dict[AnyInstrument, Place] = {}

    def place(self, instrument: AnyInstrument) -> Place:
        """Where to put its quotes; always the same object."""
        place = self._places.get(instrument)
        if place is None:
            place = self._places[instrument] = Place()
        return place

    def newest(self, instrument: AnyInstrument) -> Tick | None:
        """Its newest quote, if there was one."""
        place = self._places.get(instrument)
        return None if place is None else place.tick

    def __getitem__(self, instrument: AnyInstrument) -> Tick:
        tick = self.newest(instrument)
        if tick is None:
            raise KeyError(instrument)
        return tick

    def __setitem__(self, instrument: AnyInstrument, tick: Tick) -> None:
        self.place(instrument).tick = tick

    def __delitem__(self, instrument: AnyInstrument) -> None:
        if self.newest(instrument) is None:
            raise KeyError(instrument)
        self._places[instrument].tick = None

    def __iter__(self) -> Iterator[AnyInstrument]:
        return (instrument for instrument, place in self._places.items() if place.tick is not None)

    def __len__(self) -> int:
        return sum(place.tick is not None for place in self._places.values())
