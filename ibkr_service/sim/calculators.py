"""The option calculator: the volatility that a price implies, and the price at a volatility."""

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers
from ibkr_service.sim.contracts import Contract, read_spec
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.pricing import OPTIONS
from ibkr_service.sim.rules import invalid
from ibkr_service.sim.session import Session
from ibkr_service.sim.smile import VOLATILITY_RANGE, black_scholes, implied_volatility
from ibkr_service.sim.wire import Fields, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

CUSTOM: Final = 53
PRICE_MAX: Final = Decimal(10_000_000)
NEEDS_IB: Final = frozenset({Request.CALCULATE_IMPLIED_VOLATILITY, Request.CALCULATE_OPTION_PRICE})


def _read(gateway: "Gateway", fields: Fields) -> tuple[int, Contract, float, float]:
    """The request's id, the option, the number that is given, and the underlying's price."""
    req_id, spec = fields.whole(), read_spec(fields)
    given, under = fields.number(), fields.number()
    option = gateway.universe.resolve(spec)
    if not isinstance(option, Contract) or option.sec_type not in OPTIONS:
        raise invalid("The calculator needs an option")
    if given is None or under is None or not (0 < given < PRICE_MAX and 0 < under < PRICE_MAX):
        raise invalid("The calculator needs positive numbers")
    return req_id, option, float(given), float(under)


def _implied_volatility(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, option, price, under = _read(gateway, fields)
    years, strike = gateway.market.prices.years_left(option, gateway.clock.seconds()), float(option.strike)
    volatility = implied_volatility(option.right, price, under, strike, years)
    if volatility is None:
        # IB's words for "not computed".
        nothing = (-1, -2, price, -1, -2, -2, -2, under)
        session.send(frame(Answer.TICK_OPTION_COMPUTATION, req_id, CUSTOM, 0, *nothing))
        return
    greeks = black_scholes(option.right, under, strike, years, volatility)
    session.send(answers.tick_option(req_id, CUSTOM, greeks._replace(price=price)))


def _option_price(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, option, volatility, under = _read(gateway, fields)
    if not VOLATILITY_RANGE[0] <= volatility <= VOLATILITY_RANGE[1]:
        raise invalid("The volatility is out of range")
    years = gateway.market.prices.years_left(option, gateway.clock.seconds())
    greeks = black_scholes(option.right, under, float(option.strike), years, volatility)
    session.send(answers.tick_option(req_id, CUSTOM, greeks))


def _nothing_to_cancel(_gateway: "Gateway", _session: Session, fields: Fields) -> None:
    """The answer is out already; IB says nothing then."""
    fields.whole()


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.CALCULATE_IMPLIED_VOLATILITY: _implied_volatility,
    Request.CALCULATE_OPTION_PRICE: _option_price,
    Request.CANCEL_CALCULATE_IMPLIED_VOLATILITY: _nothing_to_cancel,
    Request.CANCEL_CALCULATE_OPTION_PRICE: _nothing_to_cancel,
}
