"""A long-running trading service for Interactive Brokers. This page is the ten-minute tour.

::

                       inbound: facts, left to right
   TWS or sim    ┌───────── broker/ ─────────┐          ┌──── hub.py ────┐           ┌── strategies ───┐
   ══bytes══▶ ib_insync ─▶ intake ─▶ translate ─ inbox ─▶ record(event) ─ mailbox ─▶ async for event   │
                 │                           │          │  1 journal     │           │  in desk.events │
                 │                           │          │  2 core        │           │        │        │
   ◀══bytes══ ib_insync ◀── session.place() ◀── Wire ───┤  3 mailboxes   ◀─ desk.submit ──────┘        │
                 └───────────────────────────┘          └───────▲────────┘  (risk.check first)          │
                                                                │                    └─────────────────┘
                       outbound: intentions, right to left   journal (read only for people)
   app.py builds all of it and owns every lifetime.     core/ is pure and does the thinking.

Three sentences: *Facts come in through the inbox. State changes in `Hub.record`. Orders leave through `Desk.submit`.*

Read in this order: `core/events.py` (what can happen), `core/link.py` and `core/orders.py` (the two state tables),
`core/book.py` (what we believe), `hub.py`, `desk.py`, `broker/session.py`, `app.py`.

Glossary. **Event** a fact. **Intent** a wish. **Order** a wish we have committed to. **Link** the usability of the
line. **Book** what we believe we hold. **Hub** where facts are recorded. **Desk** what a strategy works at.
**Mailbox** what a strategy has not read yet. **Session** one process's relation to TWS; **connection** one socket of
it. **Wire** the narrow thing a desk places orders on. **Line** one concurrent market-data subscription that IB
allows. **World** a rehearsal: the service and the simulator under one virtual clock.
"""

from ibkr_service.core.instrument import Bag, Forex, Future, Index, Option, Stock, parse
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Intent, OrderState
from ibkr_service.desk import Desk

__version__ = "0.1.0"

__all__ = [
    "Bag",
    "Desk",
    "Forex",
    "Future",
    "Index",
    "Intent",
    "Link",
    "Option",
    "OrderState",
    "Stock",
    "parse",
]
