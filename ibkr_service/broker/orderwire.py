"""An order as bytes, quickly: the library writes a message once for each kind of order, and we fill in the blanks.

ib_insync builds an object of a hundred fields and then a text of as many; nearly all of them are the same from one
order to the next. So the library's own encoder writes a message with marks where order id, action, quantity, limit
price, stop price (or trailing amount) and reference go, and from then on only these are written. What leaves is byte
for byte what the library would have sent: `tests/broker/test_orderwire.py` compares.
"""

from __future__ import annotations

from typing import NamedTuple

from ibkr_service.broker import translate
from ibkr_service.broker.client import Client
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.intent import TRAILING
from ibkr_service.core.orders import Intent, Order

TEMPLATES_MAX = 1_000  # kinds of order remembered on one connection
MARKS = ("\1id", "\1action", "\1quantity", "\1limit", "\1aux", "\1ref")
ID, ACTION, QUANTITY, LIMIT, AUX, REF = MARKS

Template = tuple[str, str, str, str, str, str, str]
"""What stands before, between and after the marks. Of a price that there is not, what stands before it is empty."""


class Tie(NamedTuple):
    """How an order hangs together with others, in TWS's words; `transmit` is False until the last of them is here."""

    parent_id: int = 0
    transmit: bool = True
    oca_group: str = ""
    oca_type: int = 0


class OrderWire:
    """Writes orders for one connection, whose server version decides the fields."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._templates: dict[tuple[object, ...], Template] = {}
        self._last: tuple[tuple[object, ...], Template] = ((), ("",) * 7)

    def message(
        self, order_id: int, intent: Intent, instrument: AnyInstrument, con_id: int, ref: str, account: str
    ) -> str:
        """The message that places an order.

        Args:
            instrument: what goes on the wire for the intent's; of a spread its BAG.
        """
        price = intent.limit_price
        plain = intent.is_plain
        auxiliary = None if plain else translate.auxiliary_price(intent)
        # Equality of instruments leaves the routing out, which is sent.
        kind = (
            instrument,
            getattr(instrument, "exchange", ""),
            getattr(instrument, "primary_exchange", ""),
            con_id,
            intent.order_type,
            intent.tif,
            intent.outside_rth,
            account,
            price is None,
            auxiliary is None,
            None if plain else _seldom_said(intent),
        )
        last, template = self._last
        if kind != last:  # mostly one strategy trades one thing: nothing has to be hashed for it
            template = self._templates.get(kind) or self._write(kind, intent, instrument, con_id, account)
            self._last = kind, template
        start, after_id, after_action, to_limit, to_aux, to_ref, end = template
        limit = "" if price is None else f"{price:f}"
        aux = "" if auxiliary is None else f"{auxiliary:f}"
        return (
            f"{start}{order_id}{after_id}{intent.action}{after_action}{intent.quantity:f}{to_limit}{limit}"
            f"{to_aux}{aux}{to_ref}{ref}{end}"
        )

    def tied(self, order_id: int, order: Order, instrument: AnyInstrument, con_id: int, tie: Tie) -> str:
        """The message that places or changes one of several orders that hang together."""
        contract = translate.contract_of(instrument, con_id)
        theirs = translate.order_of(order.intent, order.ref, order.account)
        theirs.parentId, theirs.transmit = tie.parent_id, tie.transmit
        if tie.oca_group:
            theirs.ocaGroup, theirs.ocaType = tie.oca_group, tie.oca_type
        return self._client.written(lambda: self._client.placeOrder(order_id, contract, theirs))

    def _write(
        self, kind: tuple[object, ...], intent: Intent, instrument: AnyInstrument, con_id: int, account: str
    ) -> Template:
        """Let the library write one with marks."""
        contract = translate.contract_of(instrument, con_id)
        order = translate.order_of(intent, REF, account)
        order.action, order.totalQuantity = ACTION, QUANTITY
        absent = set()
        if intent.limit_price is not None:
            order.lmtPrice = LIMIT
        else:
            absent.add(LIMIT)
        if translate.auxiliary_price(intent) is not None:
            order.auxPrice = AUX
        else:
            absent.add(AUX)
        rest, pieces = self._client.written(lambda: self._client.placeOrder(ID, contract, order)), []
        for mark in MARKS:
            if mark in absent:
                pieces.append("")
                continue
            before, found, rest = rest.partition(mark)
            assert found, f"the library wrote no {mark!r}"
            pieces.append(before)
        if len(self._templates) >= TEMPLATES_MAX:
            self._templates.clear()
        start, after_id, after_action, to_limit, to_aux, to_ref = pieces
        template = self._templates[kind] = (start, after_id, after_action, to_limit, to_aux, to_ref, rest)
        return template


def _seldom_said(intent: Intent) -> tuple[object, ...]:
    """What is written into the template itself. As text: Decimals that are equal may be written in two ways."""
    numbers = (
        intent.stop_price if intent.order_type in TRAILING else None,
        intent.trailing_percent,
        intent.limit_offset,
    )
    written = tuple(None if number is None else f"{number:f}" for number in numbers)
    fields = tuple((name, type(value), value) for name, value in intent.fields)  # True equals 1
    return (*written, intent.good_till, intent.algo, fields)
