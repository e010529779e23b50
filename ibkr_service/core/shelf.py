"""A mapping for what only grows: what nobody has looked at for long is kept packed, as the bytes it is stored in.

A hundred thousand orders take seconds to decode, and nearly all of them are over and never asked for again. A shelf is
filled with their bytes at once, and decodes a value when somebody wants it. The other way, what came or changed since
the last time is frozen at one moment, and packed afterwards in steps as small as one likes.

Values never change: a new one takes the place of the old. Nothing is ever taken off a shelf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar, overload

import msgspec

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_encoder = msgspec.msgpack.Encoder()


class Format(Generic[K, V]):
    """How the keys and values of one shelf are read back.

    Args:
        key, value: their types, as msgspec understands them.
    """

    def __init__(self, key: Any, value: Any) -> None:  # noqa: ANN401 - a type or an alias of one
        self.value: msgspec.msgpack.Decoder[V] = msgspec.msgpack.Decoder(value)
        self.entries: msgspec.msgpack.Decoder[dict[K, msgspec.Raw]] = msgspec.msgpack.Decoder(dict[key, msgspec.Raw])


class Shelf(Mapping[K, V]):
    """A mapping in the order in which its keys came; see the module. It becomes packed only if somebody packs it."""

    __slots__ = ("_format", "_frozen", "_open", "_packed")

    def __init__(self) -> None:
        self._open: dict[K, V] = {}  # new, changed or asked for since the last freeze
        self._frozen: dict[K, V] = {}  # as they were at the last freeze, on their way to be packed
        self._packed: dict[K, msgspec.Raw] = {}
        self._format: Format[K, V] | None = None

    # --- a mapping ---------------------------------------------------------------------------------------------------

    def __getitem__(self, key: K) -> V:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self._open[key] = value

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, default: V | D) -> V | D: ...
    def get(self, key: K, default: object = None) -> object:
        """The value, or else the default."""
        value = self._open.get(key)
        if value is not None:
            return value
        if key not in self._frozen and key not in self._packed:
            return default
        self._open[key] = value = self._closed(key)
        return value

    def _closed(self, key: K) -> V:
        value = self._frozen.get(key)
        if value is not None:
            return value
        assert self._format is not None, "what is packed has a format"
        return self._format.value.decode(self._packed[key])

    def __contains__(self, key: object) -> bool:
        return key in self._open or key in self._frozen or key in self._packed

    def __iter__(self) -> Iterator[K]:
        packed, frozen = self._packed, self._frozen
        yield from packed
        yield from (key for key in frozen if key not in packed)
        yield from (key for key in self._open if key not in packed and key not in frozen)

    def __reversed__(self) -> Iterator[K]:
        packed, frozen = self._packed, self._frozen
        yield from (key for key in reversed(self._open) if key not in packed and key not in frozen)
        yield from (key for key in reversed(frozen) if key not in packed)
        yield from reversed(packed)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)})"

    # --- packing -----------------------------------------------------------------------------------------------------

    def load(self, entries: bytes, form: Format[K, V]) -> None:
        """Add what `pack` gave, in the order in which it gave it.

        Raises:
            msgspec.DecodeError: it is something else.
        """
        self._format = form
        self._packed.update(form.entries.decode(entries))

    def freeze(self, form: Format[K, V]) -> None:
        """Hold fast what is here at this moment; `pack` until it is all packed comes next."""
        assert not self._frozen, "what was frozen before is packed first"
        self._format = form
        self._frozen, self._open = self._open, {}

    def pack(self, most: int) -> bytes:
        """Pack so many of the frozen values; returns what differs from what was packed before, empty if nothing does.

        Raises:
            TypeError: a value cannot be packed.
        """
        changed: dict[K, msgspec.Raw] = {}
        for key in list(_first(self._frozen, most)):
            entry = msgspec.Raw(_encoder.encode(self._frozen[key]))
            if bytes(self._packed.get(key, b"")) != bytes(entry):
                changed[key] = self._packed[key] = entry
            del self._frozen[key]
        return _encoder.encode(changed) if changed else b""

    @property
    def frozen(self) -> int:
        """How many values still have to be packed."""
        return len(self._frozen)


def _first(entries: Mapping[K, V], most: int) -> Iterator[K]:
    return (key for key, _ in zip(entries, range(most), strict=False))
