"""A shelf is a mapping, whatever of it is packed; what it packs is what came or changed.

Method: hypothesis puts, reads, freezes, packs and loads in any order, beside a plain dict that does only the first two.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ibkr_service.core.shelf import Format, Shelf

FORM = Format(str, tuple[int, ...])
KEYS = st.sampled_from("abcdefgh")


class ShelfMachine(RuleBasedStateMachine):
    """A shelf, a dict, and the bytes that a file would hold."""

    def __init__(self):
        super().__init__()
        self.shelf = Shelf()
        self.plain = {}
        self.frozen = {}  # what a snapshot that is being packed must hold
        self.packed = []

    @rule(key=KEYS, value=st.tuples(st.integers(0, 3)))
    def put(self, key, value):
        self.shelf[key] = self.plain[key] = value

    @rule(key=KEYS)
    def read(self, key):
        assert self.shelf.get(key) == self.plain.get(key)
        assert (key in self.shelf) == (key in self.plain)

    @precondition(lambda self: not self.shelf.frozen)
    @rule()
    def freeze(self):
        self.frozen = dict(self.plain)
        self.shelf.freeze(FORM)

    @rule(most=st.integers(1, 4))
    def pack(self, most):
        if part := self.shelf.pack(most):
            self.packed.append(part)
        if not self.shelf.frozen:
            loaded = Shelf()
            for part in self.packed:
                loaded.load(part, FORM)
            assert dict(loaded) == self.frozen
            assert list(loaded) == list(self.frozen), "in the order in which the keys came"

    @invariant()
    def is_the_dict(self):
        assert list(self.shelf) == list(self.plain)
        assert list(reversed(self.shelf)) == list(reversed(self.plain))
        assert len(self.shelf) == len(self.plain)
        assert self.shelf == self.plain


TestShelf = ShelfMachine.TestCase


def shelf_of(**values):
    shelf = Shelf()
    for key, value in values.items():
        shelf[key] = value
    return shelf


def packed(shelf):
    shelf.freeze(FORM)
    return shelf.pack(100)


def test_what_is_not_there_is_a_key_error():
    """As with any mapping; `get` has a default."""
    with pytest.raises(KeyError, match="x"):
        shelf_of()["x"]
    assert shelf_of().get("x", 5) == 5


def test_what_was_only_read_is_not_packed_again():
    """A snapshot is as large as what is new."""
    shelf = shelf_of(a=(1,), b=(2,))
    assert packed(shelf)
    assert shelf["a"] == (1,)
    assert packed(shelf) == b""
    shelf["a"] = (3,)
    assert msgspec.msgpack.decode(packed(shelf)) == {"a": [3]}


def test_a_shelf_is_not_filled_with_anything_else():
    """Bytes of another kind are refused when they are loaded."""
    with pytest.raises(msgspec.DecodeError):
        Shelf().load(b"\x93\x01", FORM)
