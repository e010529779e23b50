"""Generic ticks: what a client asks for by number, beside the quote.

Modelled are 100, 101, 104, 106, 165, 221, 233, 236, 411, 456 and 588. Other numbers that TWS knows are accepted and
stay silent, as they do at IB for instruments that have no such data; numbers that it does not know are refused (321).

Simplifications: lows and highs of weeks are those of the middle of the quote, nights included; open interest, short
stock and dividends are invented, the same all the year; option volume is that of a steady day.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.contracts import Contract, Instrument
from ibkr_service.sim.figures import Day
from ibkr_service.sim.messages import Answer
from ibkr_service.sim.path import mixed
from ibkr_service.sim.pricing import OPTIONS
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.rules import invalid
from ibkr_service.sim.ticks import Tick
from ibkr_service.sim.timeline import NEW_YORK
from ibkr_service.sim.volatility import implied, realised

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

LEGAL: Final = frozenset(
    {100, 101, 104, 105, 106, 162, 165, 220, 221, 225, 232, 233, 236, 256, 258, 292, 293, 294, 295, 318, 370, 375}
    | {377, 381, 384, 387, 388, 391, 407, 411, 428, 439, 456, 459, 460, 499, 506, *range(511, 520), 545, 576, 577, 578}
    | {584, 585, 586, 587, 588, 595, 608, 614, 619, 623, 658}
)
OPTION_VOLUME, OPTION_INTEREST, REALISED, IMPLIED, STATISTICS = 100, 101, 104, 106, 165
MARK_PRICE, RT_TRADES, SHORTABLE, REALISED_NOW, DIVIDENDS, FUTURES_INTEREST = 221, 233, 236, 411, 456, 588
MARKET_DATA_OFF: Final = 0
"""Not a tick: ``mdoff`` says that the quote itself is not wanted, only what is asked for by number."""
REFRESH_S: Final = 60.0
EASY_TO_BORROW, HARD_TO_BORROW = 3.0, 2.0
WEEKS: Final = ((13, 15, 16), (26, 17, 18), (52, 19, 20))
"""How many weeks, and the tick types of their low and their high."""

RT_VOLUME: Final = 48
_WEEK_S = 7 * 86_400.0
_AVERAGE_DAYS = 90
_REALISED = ((REALISED, 23), (REALISED_NOW, 58))


def read_codes(text: str) -> frozenset[int]:
    """Read a list of generic ticks: ``mdoff,100,292:BRFG``; empty entries are skipped.

    Raises:
        Refused: TWS knows no such tick.
    """
    codes: set[int] = set()
    for entry in text.split(","):
        number = entry.strip().partition(":")[0]
        if not number:
            continue
        if number == "mdoff":
            codes.add(MARKET_DATA_OFF)
            continue
        if not number.isdecimal() or len(number) > len("999") or int(number) not in LEGAL:
            legal = ",".join(str(code) for code in sorted(LEGAL))
            raise invalid(f"Incorrect generic tick list of {text[:80]}. Legal ones are: {legal}")
        codes.add(int(number))
    return frozenset(codes)


@dataclass(slots=True)
class _Past:
    """What does not change before tomorrow: by tick type the lows and highs of weeks, and other figures."""

    today: date
    realised: float | None = None
    extremes: dict[int, Decimal] = field(default_factory=dict)
    volume: int = 0


class Generics:
    """The generic ticks of one line.

    Args:
        gateway: whose prices.
        instrument: of the line.
        codes: what was asked for.
    """

    def __init__(self, gateway: "Gateway", instrument: Instrument, codes: frozenset[int]) -> None:
        self._gateway = gateway
        self._codes = codes
        self._instrument = instrument
        self._due_s = float("-inf")
        self._past: _Past | None = None
        self.are_silent = not codes
        self.are_alone = MARKET_DATA_OFF in codes

    def ticks(self, quote: Quote, day: Day) -> Iterator[Tick]:
        """What there is to say with a quote: some with every one, some once a minute."""
        if MARK_PRICE in self._codes:
            yield Tick(Answer.TICK_PRICE, 37, quote.mid)
        if RT_TRADES in self._codes and quote.last is not None:
            yield Tick(Answer.TICK_STRING, RT_VOLUME, self._rt_volume(quote, day))
        if quote.at >= self._due_s and isinstance(self._instrument, Contract):
            self._due_s = quote.at + REFRESH_S
            yield from self._slow(self._instrument, quote, day)

    def _rt_volume(self, quote: Quote, day: Day) -> str:
        """Price, size, time in ms, volume of the day, average price of the day, whether it was a single trade."""
        millis = int((self._gateway.market.prices.started_s + quote.at) * 1000)
        prices = [price for price in (day.high, day.low, quote.last) if price is not None]
        average = sum(prices, Decimal(0)) / len(prices)
        return f"{quote.last};{quote.last_size};{millis};{day.volume or 0};{average:.6f};true"

    def _slow(self, contract: Contract, quote: Quote, day: Day) -> Iterator[Tick]:
        codes, luck = self._codes, mixed(contract.con_id, 3)
        if contract.sec_type in OPTIONS:
            yield from self._of_option(contract, luck)
            return
        today = self._gateway.almanac.today(self._gateway.market.prices.started_s + quote.at)
        if self._past is None or self._past.today != today:
            self._past = self._look_back(contract, quote, today)
        if FUTURES_INTEREST in codes and contract.sec_type in {"FUT", "CONTFUT"}:
            yield Tick(Answer.TICK_SIZE, 86, 100_000 + luck % 2_000_000)
        if STATISTICS in codes:
            yield from self._statistics(self._past, day)
        if self._past.realised is not None:
            value = round(self._past.realised, 6)
            yield from (Tick(Answer.TICK_GENERIC, kind, value) for code, kind in _REALISED if code in codes)
        if IMPLIED in codes and (volatility := implied(contract)) is not None:
            yield Tick(Answer.TICK_GENERIC, 24, round(volatility, 6))
        if contract.sec_type == "STK":
            yield from self._of_stock(contract, luck)

    def _look_back(self, contract: Contract, quote: Quote, today: date) -> _Past:
        """What has been up to the beginning of today, as far as anybody asks for it."""
        prices = self._gateway.market.prices
        midnight = datetime.combine(today, time(0), NEW_YORK).timestamp()
        past = _Past(today)
        if self._codes & {REALISED, REALISED_NOW}:
            past.realised = realised(self._gateway, contract, prices.started_s + quote.at)
        if STATISTICS in self._codes:
            until_s = midnight - prices.started_s
            for weeks, low, high in WEEKS:
                moments = prices.moments(contract, until_s - weeks * _WEEK_S, until_s)
                for kind, moment_s in () if moments is None else ((low, moments.lowest), (high, moments.highest)):
                    if (then := prices.quote(contract, moment_s)) is not None:
                        past.extremes[kind] = then.mid
            volume = prices.trades(contract, until_s - _AVERAGE_DAYS * 86_400.0, until_s).volume
            past.volume = volume * 7 // (5 * _AVERAGE_DAYS)
        return past

    def _statistics(self, past: _Past, day: Day) -> Iterator[Tick]:
        """Lows and highs of weeks, today's included, and the average volume."""
        for _, low, high in WEEKS:
            if low in past.extremes and high in past.extremes:
                lowest, highest = past.extremes[low], past.extremes[high]
                yield Tick(Answer.TICK_PRICE, low, lowest if day.low is None else min(lowest, day.low))
                yield Tick(Answer.TICK_PRICE, high, highest if day.high is None else max(highest, day.high))
        yield Tick(Answer.TICK_SIZE, 21, past.volume)

    def _of_stock(self, contract: Contract, luck: int) -> Iterator[Tick]:
        if OPTION_VOLUME in self._codes:
            yield from (Tick(Answer.TICK_SIZE, kind, 10_000 + (luck >> kind) % 200_000) for kind in (29, 30))
        if OPTION_INTEREST in self._codes:
            yield from (Tick(Answer.TICK_SIZE, kind, 100_000 + (luck >> kind) % 2_000_000) for kind in (27, 28))
        if SHORTABLE in self._codes:
            is_hard = contract.symbol in self._gateway.config.hard_to_borrow
            yield Tick(Answer.TICK_GENERIC, 46, HARD_TO_BORROW if is_hard else EASY_TO_BORROW)
            yield Tick(Answer.TICK_SIZE, 89, 0 if is_hard else 1_000_000 + luck % 9_000_000)
        if DIVIDENDS in self._codes:
            year = self._gateway.clock.now().year
            quarterly = Decimal(10 + luck % 90) / 100
            yield Tick(Answer.TICK_STRING, 59, f"{4 * quarterly},{4 * quarterly},{year + 1}0210,{quarterly}")

    def _of_option(self, contract: Contract, luck: int) -> Iterator[Tick]:
        """An option has these of its own side only."""
        is_put = contract.right == "P"
        if OPTION_VOLUME in self._codes:
            yield Tick(Answer.TICK_SIZE, 29 + is_put, luck % 2_000)
        if OPTION_INTEREST in self._codes:
            yield Tick(Answer.TICK_SIZE, 27 + is_put, 100 + luck % 20_000)
        if IMPLIED in self._codes:
            volatility = self._gateway.market.prices.volatility(contract, self._gateway.clock.seconds())
            yield Tick(Answer.TICK_GENERIC, 24, round(volatility, 6))
