"""Account numbers, and the names of people and of their groups, out of a recording: other texts of the same length.

Same length, so that frames stay frames; always the same mask for the same text, so that two accounts stay two; and in
the order of the accounts, so that what is sorted by them stays sorted. The letters in front stay: they say whether an
account is a paper one. What a mask stands for is kept nowhere.

On the wire nothing but text between zero bytes is touched, message by message. An account is what the gateway lists as
managed, and whatever looks like one (U, DU, F, DF, I, DI and digits) and stands by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import count

# Message ids of the TWS API.
MANAGED_ACCOUNTS, RECEIVE_FA, REPLACE_FA, OPEN_ORDER = b"15", b"16", b"19", b"5"
WITH_NAMES = frozenset({b"3", b"101"})  # an order that is placed, and one that is over
FA_FIELDS = (31, 34, 35)  # of an open order of server version 157 to 176: group, profile, model
_LOOKS = rb"D?[FIU][0-9]{4,12}[A-Z]?"
_LOOKS_LIKE_ACCOUNT = re.compile(_LOOKS)
_PACKED = re.compile(rb"([\xa4-\xbf])(" + _LOOKS + rb")")  # a short text as MessagePack writes it: its length first
_XML_TEXT = re.compile(rb"(?<=>)[^<>\s][^<>]*(?=<)")
_LEAD = re.compile(rb"D?[FIU](?=[0-9])")


class Masks:
    """What each secret of one recording is called in it.

    Args:
        active: False for a recording that keeps everything as it is.
    """

    def __init__(self, *, active: bool = True) -> None:
        self.active = active
        self._masks: dict[bytes, bytes] = {}
        self._taken: set[bytes] = set()
        self._names: dict[bytes, bytes] = {}  # masked only where a name is expected: they may be any word
        self._pattern = _pattern(())

    # --- learning ----------------------------------------------------------------------------------------------------

    def learn(self, accounts: Iterable[bytes]) -> None:
        """These are accounts, whatever they look like."""
        new = sorted({account for account in accounts if account} - self._masks.keys())
        if not new:
            return
        for account in new:
            mask = next(mask for mask in _candidates(account) if mask not in self._taken and mask not in new)
            self._masks[account] = mask
            self._taken.add(mask)
        self._pattern = _pattern(self._masks)

    def learn_name(self, name: bytes) -> None:
        """A person, or a group of accounts, is called so."""
        if name and name not in self._names:
            self._names[name] = next(mask for mask in _name_masks(name) if mask not in self._names.values())

    # --- masking -----------------------------------------------------------------------------------------------------

    def text(self, text: bytes) -> bytes:
        """A text without account numbers."""
        if not self.active:
            return text
        return self._pattern.sub(self._mask, text)

    def fact(self, text: bytes) -> bytes:
        """A fact as JSON, without account numbers and without the name of who asked for it."""
        if not self.active:
            return text
        for name, mask in self._names.items():
            text = text.replace(b'"by":"%s"' % name, b'"by":"%s"' % mask)
        return self._pattern.sub(self._mask, self._told_by(text))

    def message(self, body: bytes) -> bytes:
        """A message of the TWS API, its length not included."""
        if not self.active:
            return body
        kind = body[: body.find(b"\0")]
        if kind == MANAGED_ACCOUNTS:
            self.learn(body.split(b"\0")[2].split(b",") if body.count(b"\0") > 1 else ())
        elif kind in {RECEIVE_FA, REPLACE_FA}:
            body = _XML_TEXT.sub(self._found_name, body)
        elif kind == OPEN_ORDER:
            body = self._open_order(body)
        elif self._names and kind in WITH_NAMES:
            body = b"\0".join(self._names.get(field, field) for field in body.split(b"\0"))
        return self._pattern.sub(self._mask, body)

    def packed(self, body: bytes) -> bytes:
        """MessagePack, whose texts have their length in front and no end."""
        if not self.active:
            return body
        found = {text[: head[0] & 31] for head, text in _PACKED.findall(body) if head[0] & 31 <= len(text)}
        self.learn(account for account in found if _LOOKS_LIKE_ACCOUNT.fullmatch(account))
        for account, mask in self._masks.items():
            body = body.replace(account, mask)
        for name, mask in self._names.items():
            head = bytes([0xA0 | len(name)]) if len(name) < 32 else bytes([0xD9, len(name) & 255])  # noqa: PLR2004
            body = body.replace(head + name, head + mask)
        return self._told_by(body)

    def _told_by(self, text: bytes) -> bytes:
        """Texts for people that say who asked."""
        for name, mask in self._names.items():
            text = text.replace(b" by %s " % name, b" by %s " % mask)
        return text

    def _mask(self, found: re.Match[bytes]) -> bytes:
        if found[0] not in self._masks:
            self.learn((found[0],))
        return self._masks[found[0]]

    def _found_name(self, found: re.Match[bytes]) -> bytes:
        if _LOOKS_LIKE_ACCOUNT.fullmatch(found[0]) or found[0] in self._masks:
            return found[0]
        self.learn_name(found[0])
        return self._names[found[0]]

    def _open_order(self, body: bytes) -> bytes:
        fields = body.split(b"\0")
        if len(fields) > max(FA_FIELDS):
            for at in FA_FIELDS:
                self.learn_name(fields[at])
                fields[at] = self._names.get(fields[at], b"")
        return b"\0".join(fields)


def _pattern(accounts: Iterable[bytes]) -> re.Pattern[bytes]:
    """What is masked: a known account, or what looks like one, that is no part of a longer word."""
    known = [re.escape(account) for account in sorted(accounts, key=len, reverse=True)]
    return re.compile(rb"(?<![A-Za-z0-9])(?:%s)(?![A-Za-z0-9])" % b"|".join([*known, _LOOKS]))


def _candidates(account: bytes) -> Iterator[bytes]:
    """Texts of the same length: the leading letters stay, the rest is a number."""
    lead = found[0] if (found := _LEAD.match(account)) else b""
    width = len(account) - len(lead)
    for number in count(1):
        mask = lead + str(number).encode().rjust(width, b"0")
        if len(mask) > len(account):
            raise ValueError("more accounts of this length than there are masks")
        yield mask


def _name_masks(name: bytes) -> Iterator[bytes]:
    for number in count(1):
        digits = str(number).encode()
        yield (b"x" * len(name) + digits)[-len(name) :]
        if len(digits) > len(name):
            raise ValueError("more names of this length than there are masks")
