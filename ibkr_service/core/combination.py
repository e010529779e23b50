"""A combination of options: what it is made of, what can become of it, and what goes to the broker to trade it.

A `Spread` is a list of legs as the one who is LONG it holds them, and nothing else: its name, its natural direction and
its payoff are read off the legs, so that they cannot disagree with them. LONG opens it as constructed, whatever it is
called: LONG an iron condor sells the inner strikes and buys the wings, and brings a credit; LONG a short straddle sells
both options. SHORT is the other side of it.

The natural direction comes from no-arbitrage. Legs that expire together and can only ever be worth something cost a
debit; legs that can only ever be owed bring a credit; this is *certain*. Of legs with several expiries, where each sold
option is covered by a bought one that lasts as long and has no worse a strike, the direction is what is usual: a
European put that is deep in the money may be worth less with more time. All else depends on the market and has to be
said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import cached_property
from math import gcd
from typing import Literal

import msgspec

from ibkr_service.core import legs as shape
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Action, AnyOption, Future, FutureOption
from ibkr_service.core.legs import Kind, Leg, LegInstrument, contract_of, series_of, strike_of
from ibkr_service.core.netprice import Direction, NetPrice, said
from ibkr_service.core.payoff import Outcome, Payoff, estimated_outcome, exact_outcome, payoff_of

Side = Literal["LONG", "SHORT"]
PricingModel = Callable[[AnyOption, Decimal, str, Decimal], Decimal]
"""What an option is worth: the option, the price of the underlying, the day (`YYYYMMDD`, at its close), the volatility
(annual, 0.25 is 25 %); per unit of the underlying, >= 0."""

# Where an estimate looks: this many even steps from zero to this many times the highest strike, and at each strike.
ESTIMATE_STEPS = 300
ESTIMATE_REACH = 3


class ComboOrder(msgspec.Struct, frozen=True):
    """What IB is sent for a combination: the BAG's legs as written, the order's action, the limit price with its sign.

    `limit_price` is None for a market order. Leg actions are those of a BUY; IB inverts them when the order is a SELL.
    """

    action: Action
    legs: tuple[Leg, ...]
    limit_price: Decimal | None


class Spread(msgspec.Struct, frozen=True, dict=True, tag_field="kind", tag="Spread"):
    """A combination of options on one underlying, perhaps with the underlying. Existing means valid.

    The order in which legs are given does not matter. Prices of a spread are per unit of the underlying, as IB quotes
    them; `multiplier` makes money of them.

    Raises:
        InvalidIntent: the legs make no combination, with what would be right.
    """

    legs: tuple[Leg, ...]

    def __post_init__(self) -> None:
        if not all(isinstance(one, Leg) for one in self.legs):
            raise InvalidIntent(f"legs are made with Leg(instrument, ratio, action), not {self.legs!r}")
        shape.check(self.legs)
        msgspec.structs.force_setattr(self, "legs", shape.in_order(self.legs))

    @cached_property
    def kind(self) -> Kind:
        """What the market calls it."""
        return shape.kind_of(self.legs)

    @property
    def options(self) -> tuple[AnyOption, ...]:
        """Its options, by expiry and strike."""
        return tuple(one.option for one in self.legs if one.option is not None)

    @property
    def symbol(self) -> str:
        """The underlying's symbol."""
        return self.options[0].symbol

    @property
    def currency(self) -> str:
        """What it is quoted in."""
        return self.options[0].currency

    @property
    def multiplier(self) -> Decimal:
        """Money per 1 of its price."""
        return next(one.multiplier for one in self.legs if one.option is not None)

    def weight(self, leg: Leg) -> Decimal:
        """How often a leg's price goes into the whole's, with its sign: 100 shares beside one option count once."""
        return leg.signed * leg.multiplier / self.multiplier

    @property
    def expires_together(self) -> bool:
        """Whether all options are of one expiry and trading class, and so settle in one moment."""
        return len({series_of(option) for option in self.options}) == 1

    @property
    def front_expiry(self) -> str:
        """The first day on which something of it expires, `YYYYMMDD`."""
        return min(option.expiry for option in self.options)

    def inverse(self) -> Spread:
        """The spread that is the other side of it."""
        return Spread(tuple(one.inverse() for one in self.legs))

    def positions(self, quantity: int = 1, side: Side = "LONG") -> dict[LegInstrument, Decimal]:
        """What someone holds after trading it: signed contracts (or shares) of each instrument."""
        sign = _sign(side)
        return {one.instrument: Decimal(sign * quantity * one.signed) for one in self.legs}

    # --- which way the money goes ------------------------------------------------------------------------------------

    @cached_property
    def natural(self) -> Direction | None:
        """Whether to be LONG it costs a debit or brings a credit; None: that depends on the market."""
        if any(isinstance(one.instrument, Future) for one in self.legs):
            return None  # what a future is quoted at is not paid, and may be negative
        if not self.expires_together:
            return self._usual
        worth = self.payoff()
        is_owed = worth.highest <= 0
        if worth.lowest is not None and worth.lowest >= 0:
            return None if is_owed else Direction.DEBIT  # a call butterfly against that of puts is worth nothing
        return Direction.CREDIT if is_owed else None

    @property
    def is_certain(self) -> bool:
        """Whether the natural direction follows from no-arbitrage, and is not only usual."""
        return self.natural is not None and self.expires_together

    @property
    def _usual(self) -> Direction | None:
        """Of several expiries. Options on futures are on another future each, and so cover nothing."""
        if len(self.options) < len(self.legs) or isinstance(self.options[0], FutureOption):
            return None
        bought = [one for one in self.legs if one.action == "BUY"]
        sold = [one for one in self.legs if one.action == "SELL"]
        if _covers(bought, sold):
            return Direction.DEBIT
        return Direction.CREDIT if _covers(sold, bought) else None

    def direction(self, side: Side) -> Direction | None:
        """The natural direction of opening this side of it."""
        return self.natural if _sign(side) > 0 or self.natural is None else self.natural.opposite

    def net_price(
        self,
        price: Decimal | None = None,
        *,
        debit: Decimal | None = None,
        credit: Decimal | None = None,
        side: Side = "LONG",
        unnatural: bool = False,
    ) -> NetPrice:
        """The limit that was meant: `debit=`, `credit=`, or a bare price, which takes the natural direction.

        Args:
            unnatural: the money shall go against a certain direction. So one may have to pay 0.05 to be rid of a
                worthless spread of which the one option has no bid, and the other an ask.

        Raises:
            InvalidIntent: several given or none; a sign; a bare price where the direction depends on the market; a
                direction that contradicts a certain one, and nobody said `unnatural`; one that does not, and somebody
                did.
        """
        meant = said(debit, credit)
        if price is not None:
            if meant is not None:
                raise InvalidIntent(f"price={price} beside {meant[1]}={meant[0]}: give the one that is meant")
            natural = self.direction(side)
            if unnatural:
                raise InvalidIntent(
                    f"unnatural=True needs debit= or credit=: price={price} takes the natural direction"
                )
            if natural is None:
                raise InvalidIntent(
                    f"{side} {self}: whether this costs or brings money depends on the market: "
                    f"say debit={price} or credit={price}"
                )
            meant = price, natural
        if meant is None:
            raise InvalidIntent("a limit needs a price: say debit=, credit=, or a bare price for the natural direction")
        limit = NetPrice(*meant, is_unnatural=unnatural)
        self.check_limit(limit, side)
        return limit

    def contradicts(self, action: Action, price: Decimal) -> bool:
        """Whether a signed limit price goes against a direction that is certain."""
        natural = self.direction("LONG" if action == "BUY" else "SHORT")
        return self.is_certain and price != 0 and NetPrice.of_signed(action, price).direction is not natural

    def check_limit(self, limit: NetPrice, side: Side) -> None:
        """Refuse a limit that contradicts a certain direction, or says so of one that does not.

        Raises:
            InvalidIntent: with what to say instead.
        """
        natural = self.direction(side)
        contradicts = self.is_certain and limit.direction is not natural
        # Nothing at all is the same in both directions.
        if limit.amount == 0 or contradicts == limit.is_unnatural:
            return
        if contradicts:
            raise InvalidIntent(
                f"{side} {self} is always a {natural}, so {limit.direction}={limit.amount} contradicts it: "
                f"say {natural}={limit.amount}, or unnatural=True if it is meant"
            )
        raise InvalidIntent(
            f"unnatural=True, but {limit.direction}={limit.amount} is nothing unusual for {side} {self}: leave it out"
        )

    # --- what can become of it ---------------------------------------------------------------------------------------

    def payoff(self, side: Side = "LONG") -> Payoff:
        """What one of it is worth at expiry, in money, before what it cost.

        Raises:
            InvalidIntent: it does not expire all at once.
        """
        if not self.expires_together:
            raise InvalidIntent(f"{self} does not expire all at once, so it has no payoff: estimate() it")
        return self._payoff(side)

    def _payoff(self, side: Side) -> Payoff:
        parts = (one.part for one in self.legs)
        signed = (msgspec.structs.replace(part, weight=_sign(side) * part.weight) for part in parts)
        return payoff_of(signed, has_floor=not isinstance(self.options[0], FutureOption))

    def outcome(self, price: NetPrice, side: Side = "LONG") -> Outcome:
        """Maximum profit and loss and break-evens of one, opened at this net price, at expiry. Exact.

        Any price is taken: a spread that was put on leg by leg may have cost what no market order would.

        Raises:
            InvalidIntent: it does not expire all at once.
        """
        return exact_outcome(self.payoff(side).shifted(price.cash * self.multiplier), self.front_expiry)

    def estimate(
        self,
        price: NetPrice,
        model: PricingModel,
        volatility: Decimal,
        side: Side = "LONG",
        prices: Iterable[Decimal] = (),
    ) -> Outcome:
        """The same at the front expiry, when the other options are worth what a model says. Marked as estimated.

        It says nothing of what comes after: who is SHORT a calendar then has sold an option that nothing covers.

        Args:
            volatility: annual, of all options that live on; 0.25 is 25 %.
            prices: of the underlying at which to look; by default 300 between zero and three times the highest strike.

        Raises:
            InvalidIntent: a volatility or a value of the model that cannot be.
        """
        if not _is_number(volatility) or volatility <= 0:
            raise InvalidIntent(f"a volatility is a Decimal above 0, such as Decimal('0.25'), not {volatility!r}")
        strikes = [strike_of(option) for option in self.options]
        step = ESTIMATE_REACH * max(strikes) / ESTIMATE_STEPS
        cash = price.cash * self.multiplier

        def profit(at: Decimal) -> Decimal:
            return cash + sum(_sign(side) * self._worth(one, at, model, volatility) for one in self.legs)

        return estimated_outcome(
            profit,
            self._payoff(side),
            list(prices) or [*strikes, *(step * count for count in range(1, ESTIMATE_STEPS + 1))],
            on=self.front_expiry,
            volatility=volatility,
        )

    def _worth(self, one: Leg, at: Decimal, model: PricingModel, volatility: Decimal) -> Decimal:
        """Money that a leg is worth at the front expiry."""
        if one.option is None or one.option.expiry == self.front_expiry:
            return one.part.at(at)
        value = model(one.option, at, self.front_expiry, volatility)
        if not _is_number(value) or value < 0:
            raise InvalidIntent(f"the pricing model gave {value!r} for {one.option} at {at}: a Decimal >= 0 is needed")
        return one.part.weight * value

    # --- trading it --------------------------------------------------------------------------------------------------

    def order(self, side: Side, price: NetPrice | None, action: Action | None = None) -> ComboOrder:
        """What goes on the wire to open this side of it.

        By default LONG is a BUY and SHORT a SELL of the same BAG, with the legs as the spread has them. `action` writes
        it the other way, legs inverted; both do the same, for the same money. `bull` is BUY 150 C, SELL 160 C:

        >>> from ibkr_service.core.spreads import bull_call
        >>> bull = bull_call("AAPL 20270115 150 C", "AAPL 20270115 160 C")
        >>> def wire(side, price, action=None):
        ...     order = bull.order(side, price, action)
        ...     legs = (f"{leg.action} {leg.instrument.strike:g}" for leg in order.legs)
        ...     print(order.action, order.limit_price, "|", *legs)
        >>> debit = bull.net_price(Decimal("2.85"))
        >>> print(debit)
        pay at most 2.85
        >>> wire("LONG", debit)
        BUY 2.85 | BUY 150 SELL 160
        >>> wire("LONG", debit, "SELL")
        SELL -2.85 | SELL 150 BUY 160
        >>> credit = bull.net_price(Decimal("2.85"), side="SHORT")
        >>> print(credit)
        receive at least 2.85
        >>> wire("SHORT", credit)
        SELL 2.85 | BUY 150 SELL 160
        >>> wire("SHORT", credit, "BUY")
        BUY -2.85 | SELL 150 BUY 160

        Args:
            price: None for a market order.

        Raises:
            InvalidIntent: the price contradicts the natural direction.
        """
        if price is not None:
            self.check_limit(price, side)
        usual: Action = "BUY" if _sign(side) > 0 else "SELL"
        chosen = usual if action is None else action
        if chosen not in {"BUY", "SELL"}:
            raise InvalidIntent(f"an order's action is BUY or SELL, not {action!r}")
        written = self if chosen == usual else self.inverse()
        return ComboOrder(chosen, written.legs, None if price is None else price.signed(chosen))

    def __str__(self) -> str:
        return f"{self.options[0].symbol} {self.kind} ({', '.join(map(str, self.legs))})"


def _is_number(value: object) -> bool:
    # Strategies, and the models they bring, are not type-checked.
    return isinstance(value, Decimal) and value.is_finite()


def _sign(side: Side) -> int:
    if side not in {"LONG", "SHORT"}:
        raise InvalidIntent(f"a side is LONG or SHORT, not {side!r}")
    return 1 if side == "LONG" else -1


def _covers(bought: Sequence[Leg], sold: Sequence[Leg]) -> bool:
    """Whether each sold option has a bought one that is worth no less for as long as it lives.

    Each takes the first that fits; where another choice would have covered all, the answer is no, and the user asked.
    """
    left = {one: one.ratio for one in bought}
    for short in sold:
        wanted = short.ratio
        for long, free in left.items():
            taken = min(wanted, free) if _dominates(long, short) else 0
            left[long] -= taken
            wanted -= taken
        if wanted:
            return False
    return True


def _dominates(long: Leg, short: Leg) -> bool:
    a, b = long.option, short.option
    if a is None or b is None or a.right != b.right or a.expiry < b.expiry:
        return False
    better = strike_of(b) - strike_of(a)
    return better >= 0 if a.right == "C" else better <= 0


# --- from legs -------------------------------------------------------------------------------------------------------


def combination(legs: Iterable[Leg]) -> tuple[Spread, int]:
    """Any list of legs as a spread with reduced ratios, and how many of it they are: 2:4 of something is two 1:2.

    Raises:
        InvalidIntent: they make no combination.
    """
    given = tuple(legs)
    if not all(isinstance(one, Leg) for one in given):
        raise InvalidIntent(f"legs are made with Leg(instrument, ratio, action), not {given!r}")
    common = gcd(*(one.ratio for one in given)) or 1
    return Spread(tuple(msgspec.structs.replace(one, ratio=one.ratio // common) for one in given)), common


def closing(held: Spread) -> Spread:
    """The spread to be LONG of in order to close one that is held LONG: its inverse.

    A SHORT one is closed by going LONG the spread itself.
    """
    return held.inverse()


def rolling(held: Spread, into: Spread) -> tuple[Spread, int]:
    """What closes one held LONG and opens another, as one combination, and how many of it per spread.

    A contract that is in both is netted: where only one side of a condor moves, the other is not traded. Its direction
    mostly depends on the market, so a limit must say debit or credit.

    Raises:
        InvalidIntent: they are the same, or have no common underlying.
    """
    net: dict[tuple[object, ...], tuple[LegInstrument, int]] = {}
    for one in (*held.inverse().legs, *into.legs):
        key = contract_of(one.instrument)
        instrument, signed = net.get(key, (one.instrument, 0))
        net[key] = instrument, signed + one.signed
    moved = [shape.leg(instrument, signed) for instrument, signed in net.values() if signed]
    if not moved:
        raise InvalidIntent(f"{held} is held already: there is nothing to roll")
    return combination(moved)
