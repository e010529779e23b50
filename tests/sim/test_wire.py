"""Framing and fields."""

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.sim.wire import (
    API_PREFIX,
    FRAME_BYTES_MAX,
    FieldError,
    Fields,
    FrameTooLong,
    HandshakeError,
    Hello,
    Inbound,
    WireError,
    field,
    frame,
    parse_number,
)

TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))
HELLO = API_PREFIX + b"\x00\x00\x00\x09v157..176"


def received(data: bytes, cuts: list[int]) -> list[Hello | tuple[str, ...]]:
    """Feed bytes cut at these places, and collect what comes out."""
    inbound, items, start = Inbound(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        inbound.feed(data[start:cut])
        items += inbound.received()
        start = cut
    return items


@given(st.lists(st.lists(TEXT, min_size=1), max_size=6), st.data())
def test_any_split_of_the_stream_yields_the_same_frames(messages, data):
    """How the bytes were cut can never be seen from outside."""
    stream = HELLO + b"".join(frame(*message) for message in messages)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    expected = [Hello(157, 176), *(tuple(message) for message in messages)]
    assert received(stream, []) == expected
    assert received(stream, cuts) == expected
    assert received(stream, list(range(len(stream)))) == expected


@given(st.binary(max_size=300))
def test_nothing_but_wire_errors_can_come_of_garbage(garbage):
    """A peer that is wrong is told apart from a bug of ours."""
    inbound = Inbound()
    inbound.feed(garbage)
    try:
        list(inbound.received())
    except WireError:
        return


@pytest.mark.parametrize(
    ("hello", "expected"),
    [
        (b"v157..176", Hello(157, 176)),
        (b"v100", Hello(100, 100)),
        (b"v157..178 +PACEAPI", Hello(157, 178, "+PACEAPI")),
    ],
)
def test_the_handshake_is_read(hello, expected):
    """Ranges, single numbers and options are legal."""
    assert received(API_PREFIX + len(hello).to_bytes(4, "big") + hello, []) == [expected]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1", b"A\0", API_PREFIX + b"\0\0\0\3abc", API_PREFIX + b"\0\0\0\0"])
def test_what_is_no_handshake_is_refused(data):
    """Something else entirely has connected."""
    with pytest.raises(HandshakeError):
        received(data, [])


def test_frames_are_bounded():
    """A frame that announces too much is refused before it is kept."""
    with pytest.raises(FrameTooLong):
        received(HELLO + (FRAME_BYTES_MAX + 1).to_bytes(4, "big"), [])
    with pytest.raises(FrameTooLong):
        received(API_PREFIX + (10_000).to_bytes(4, "big"), [])


def test_frames_before_the_fault_are_yielded():
    """Good frames are not lost with the bad one after them, however they arrive."""
    inbound = Inbound()
    inbound.feed(HELLO + frame(49, 1) + b"\xff\xff\xff\xff")
    items = inbound.received()
    assert [next(items), next(items)] == [Hello(157, 176), ("49", "1")]
    with pytest.raises(FrameTooLong):
        next(items)


def test_parsing_takes_linear_time():
    """Ten times the frames take about ten times as long, in one chunk as well."""

    def seconds(count: int) -> float:
        stream = HELLO + frame(49, 1) * count
        started = time.process_time()
        assert len(received(stream, [])) == count + 1
        return time.process_time() - started

    seconds(1000)
    assert seconds(100_000) < 60 * max(seconds(10_000), 0.005)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "1"),
        (False, "0"),
        (7, "7"),
        (Decimal("100.00"), "100"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.00005"), "0.00005"),
        (Decimal("-0.0"), "0"),
        (10.0, "10"),
        (1e-05, "0.00001"),
        (float("inf"), "Infinity"),
        ("a\0b", "a b"),
    ],
)
def test_fields_are_written_as_clients_can_read_them(value, text):
    """Whole numbers have no .0: the official client passes many of them to int()."""
    assert field(value) == text


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=8))
def test_a_written_decimal_reads_back_equal(number):
    """Nothing is lost, and whole numbers look whole."""
    text = field(number)
    assert parse_number(text) == number
    assert ("." in text) == (number != int(number))


@pytest.mark.parametrize(
    "unset",
    ["", "1.7976931348623157e+308", "1.7976931348623157E308", "2147483647", "170141183460469231731687303715884105727"],
)
def test_the_clients_sentinels_are_unset(unset):
    """Every client has its own way to say nothing."""
    assert parse_number(unset) is None


def test_infinity_has_two_spellings():
    """Infinite is ib_insync's, Infinity the official client's."""
    assert parse_number("Infinite") == parse_number("Infinity") == Decimal("Infinity")


@pytest.mark.parametrize("text", ["nan", "x", "1e999999", "1_0x", "0x10"])
def test_what_is_no_number_is_refused(text):
    """NaN is what ib_insync writes for a NaN; absurd exponents would cost memory."""
    with pytest.raises(FieldError):
        parse_number(text)


def test_fields_are_taken_in_order_and_typed():
    """Each accessor says what its place demands."""
    fields = Fields(("7", "", "1.5", "1", "text", "10.0", "rest"))
    assert (fields.whole(), fields.whole(3), fields.number(), fields.flag()) == (7, 3, Decimal("1.5"), True)
    assert (fields.text(), fields.whole(), fields.remaining) == ("text", 10, 1)


@pytest.mark.parametrize(
    ("take", "text"), [("whole", "x"), ("whole", "1.5"), ("whole", "9" * 99), ("flag", "2"), ("number", "-")]
)
def test_a_field_that_is_not_what_its_place_demands_is_refused(take, text):
    """The error names the field."""
    with pytest.raises(FieldError, match="field 1"):
        getattr(Fields((text,)), take)()


def test_absent_fields_are_refused_unless_forgiven():
    """Only the tail that old clients do not know may be missing."""
    fields = Fields(())
    with pytest.raises(FieldError):
        fields.text()
    fields.forgive_absent()
    assert (fields.text(), fields.whole(), fields.number(), fields.flag()) == ("", 0, None, False)


def test_counts_are_bounded():
    """No request can make us loop for ever."""
    with pytest.raises(FieldError):
        Fields(("1000000000",)).count()
    with pytest.raises(FieldError):
        Fields(("-1",)).count()


def test_bytes_that_are_no_text_survive_the_round_trip():
    """An orderRef in any encoding comes back as it was."""
    inbound = Inbound()
    inbound.feed(HELLO + b"\0\0\0\3\xff\xfe\0")
    _, values = inbound.received()
    assert frame(*values) == b"\0\0\0\3\xff\xfe\0"
