"""Masks for a recording: no account number survives, frames stay frames, and what is no secret stays as it is.

Goal: a recording may be sent to a stranger. Method: random accounts, messages and chunks (hypothesis); examples.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.masking import Masks
from ibkr_service.core.recording import Framing, framed

ACCOUNTS = st.from_regex(r"\A(DU|DF|U|F|I|DI)[0-9]{5,8}\Z")
ODD_ACCOUNTS = st.from_regex(r"\A[A-Z]{4,6}[a-z0-9]{2,4}\Z")
FIELDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@st.composite
def conversations(draw):
    """Accounts of a login, and messages that name them in fields, in lists and within words for people."""
    accounts = draw(st.lists(st.one_of(ACCOUNTS, ODD_ACCOUNTS), min_size=1, max_size=5, unique=True))
    listed = ",".join(accounts)
    messages = [f"15\x001\x00{listed}\x00"]
    for _ in range(draw(st.integers(1, 12))):
        account = draw(st.sampled_from(accounts))
        fields = draw(st.lists(FIELDS, max_size=6))
        said = draw(st.sampled_from(["{}", "account {} is restricted", "{},All", "<account>{}</account>", "x/{}/y"]))
        fields.insert(draw(st.integers(0, len(fields))), said.format(account))
        messages.append("\x00".join([draw(st.sampled_from(["4", "6", "61", "63", "73"])), *fields, ""]))
    return accounts, [message.encode() for message in messages]


def _in_chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@given(conversations(), st.lists(st.integers(0, 100_000), max_size=20))
def test_no_account_survives_and_every_frame_does(conversation, cuts):
    """However it is cut: lengths and fields stay, and only accounts are other texts."""
    accounts, messages = conversation
    masks, framing = Masks(), Framing()
    wire = b"".join(map(framed, messages))
    masked = [masks.message(body) for chunk in _in_chunks(wire, cuts) for body in framing.messages(chunk)]
    assert framing.rest == b""
    assert [len(message) for message in masked] == [len(message) for message in messages]
    stands_alone = "(?<![A-Za-z0-9])(?:{})(?![A-Za-z0-9])".format("|".join(map(re.escape, accounts)))
    assert not re.search(stands_alone.encode(), b"\n".join(masked))
    listed = masked[0].split(b"\0")[2].split(b",")
    assert len(set(listed)) == len(accounts), "two accounts stay two"
    for before, after in zip(messages, masked, strict=True):
        assert _without(after, accounts, listed) == _without(before, accounts, listed)


def _without(message: bytes, accounts: list[str], listed: list[bytes]) -> bytes:
    """A message with a hole where an account, a mask or anything like one stands."""
    for text in sorted([*(a.encode() for a in accounts), *listed], key=len, reverse=True):
        message = re.sub(b"(?<![A-Za-z0-9])" + re.escape(text) + b"(?![A-Za-z0-9])", b"?" * len(text), message)
    looks = rb"(?<![A-Za-z0-9])D?[FIU][0-9]{4,12}[A-Z]?(?![A-Za-z0-9])"
    return re.sub(looks, lambda found: b"?" * len(found[0]), message)


def test_the_letters_in_front_and_the_order_stay():
    """A paper account stays one, and what is sorted by accounts stays sorted."""
    masks = Masks()
    masked = masks.message(b"15\x001\x00DU7654321,DU1234567,U99999\x00")
    assert masked == b"15\x001\x00DU0000002,DU0000001,U00001\x00"
    assert masks.text(b"DU1234567 and DU7654321") == b"DU0000001 and DU0000002"


def test_what_only_resembles_an_account_stays():
    """Numbers of contracts and executions, references, times."""
    text = b"3\x0012087792\x000000e0d5.5142b5cf.01.01\x00ibs.tox5bp-1.1.demo.f1234567\x0020261122 19:30:00\x00176\x00"
    assert Masks().message(text) == text


def test_groups_of_an_advisor_have_other_names():
    """In the list of groups, and in the orders that name one."""
    masks = Masks()
    listed = masks.message(b"16\x001\x001\x00<Group><name>Pension Smith</name><Account>U123456</Account></Group>\x00")
    assert b"Smith" not in listed
    assert b"U123456" not in listed
    fields = [b"5", *[b"0"] * 29, b"", b"Pension Smith", b"", b"", b"Widow Jones", b"Model", b"x", b""]
    order = masks.message(b"\0".join(fields))
    assert len(order) == len(b"\0".join(fields))
    assert not re.search(b"Smith|Jones|Model", order)
    assert b"Smith" not in masks.message(b"3\x009\x00Pension Smith\x00")


def test_texts_of_messagepack_have_no_end():
    """An account before a number whose byte looks like a digit."""
    body = b"\x93\xa9DU1234567\x35\xbbfor account DU1234567 only"
    masked = Masks().packed(body)
    assert masked == b"\x93\xa9DU0000001\x35\xbbfor account DU0000001 only"


def test_an_unmasked_recording_keeps_everything():
    """Nothing is touched."""
    masks = Masks(active=False)
    for mask in (masks.text, masks.message, masks.fact, masks.packed):
        assert mask(b"15\x001\x00DU1234567\x00") == b"15\x001\x00DU1234567\x00"


def test_who_asked_is_nobodys_business():
    """The name of a person at the control socket."""
    masks = Masks()
    masks.learn_name(b"alice")
    fact = masks.fact(b'{"by":"alice","kind":"OperatorSaid","verb":"halt"}')
    assert b"alice" not in fact
    assert fact.startswith(b'{"by":"')


def test_more_accounts_than_masks_is_said():
    """A recording that cannot be masked must not go on."""
    with pytest.raises(ValueError, match="more accounts"):
        Masks().learn([bytes([letter]) for letter in b"abcdefghijklm"])
