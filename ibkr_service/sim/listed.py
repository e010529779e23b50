"""From the tables to instruments: every row of `listing.py`, every option of a class, every delivery of a product."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import lru_cache
from typing import Final

from ibkr_service.sim import futures, listing, options
from ibkr_service.sim.instruments import Contract

STOCK_EXCHANGES: Final = (
    *("SMART", "NYSE", "NASDAQ", "ARCA", "BATS", "IEX", "ISLAND"),
    *("AMEX", "BYX", "EDGEA", "DRCTEDGE", "PSX", "MEMX", "IBKRATS", "OVERNIGHT"),
)
OPTION_EXCHANGES: Final = ("SMART", "AMEX", "CBOE", "ISE", "PHLX")
INDEX_OPTION_EXCHANGES: Final = ("SMART", "CBOE")
FOREX_EXCHANGES: Final = ("IDEALPRO",)


def stocks(rows: tuple[listing.Stock, ...]) -> dict[int, Contract]:
    """Shares, by contract id."""
    return {row.con_id: _stock(row) for row in rows}


def pairs() -> dict[int, Contract]:
    """Currency pairs, by contract id."""
    return {row.con_id: _pair(row) for row in listing.PAIRS}


def indexes() -> dict[int, Contract]:
    """Indexes, by contract id: they have a price, and cannot be traded."""
    return {row.con_id: _index(row) for row in listing.INDEXES}


def futures_of(root: listing.Root, today: date) -> tuple[list[Contract], list[Contract]]:
    """The contracts of a product: those that have expired, and those that are listed, soonest first."""
    expired, listed = futures.deliveries(root, today)
    return [_future(root, delivery) for delivery in expired], [_future(root, delivery) for delivery in listed]


def option_exchanges(row: listing.OptionClass) -> tuple[str, ...]:
    """Where the options of a class trade."""
    return row.exchanges or (OPTION_EXCHANGES if row.under_sec_type == "STK" else INDEX_OPTION_EXCHANGES)


@lru_cache(maxsize=256)
def future_under(row: listing.OptionClass, expiry: date, today: date) -> int:
    """The contract id of the future that an option on futures ends in: the next one to end."""
    root = next(each for each in listing.ROOTS if each.symbol == row.symbol)
    _, ahead = futures.deliveries(root, today)
    return next(delivery.con_id for delivery in ahead if delivery.expiry >= expiry)


def chain_on(row: listing.OptionClass, future: Contract, today: date) -> options.Chain:
    """Those options of a class that are on one future."""
    chain = options.chain_of(row, today)
    expiries = tuple(day for day in chain.expiries if future_under(row, day, today) == future.con_id)
    return replace(
        chain, expiries=expiries, series=tuple(series for series in chain.series if series.expiry in expiries)
    )


def options_of(row: listing.OptionClass, today: date) -> Iterator[Contract]:
    """Every option of a class."""
    exchanges = option_exchanges(row)
    for series in options.chain_of(row, today).series:
        expiry = f"{series.expiry:%Y%m%d}"
        yield Contract(
            con_id=series.con_id,
            symbol=row.symbol,
            sec_type="OPT" if row.under_con_id else "FOP",
            currency="USD",
            exchange=exchanges[0],
            local_symbol=_local_symbol(row, series),
            trading_class=row.trading_class,
            market_rule=row.market_rule,
            exchanges=exchanges,
            long_name=row.under_name,
            expiry=expiry,
            strike=series.strike,
            right=series.right,
            multiplier=row.multiplier,
            under_con_id=row.under_con_id or future_under(row, series.expiry, today),
            settlement=row.settlement,
            contract_month=expiry[:6],
        )


def _local_symbol(row: listing.OptionClass, series: options.Series) -> str:
    """``SPXW  261218C05900000``, on futures ``EWX6 C5900``."""
    if row.under_con_id:
        return f"{row.trading_class:<6}{series.expiry:%y%m%d}{series.right}{int(series.strike * 1000):08d}"
    month = futures.MONTH_LETTERS[series.expiry.month - 1]
    return f"{row.trading_class}{month}{series.expiry.year % 10} {series.right}{series.strike.normalize():f}"


def _stock(row: listing.Stock) -> Contract:
    is_american = row.currency == "USD"
    return Contract(
        con_id=row.con_id,
        symbol=row.symbol,
        sec_type="STK",
        currency=row.currency,
        exchange="SMART",
        local_symbol=row.symbol,
        trading_class="NMS" if row.primary_exchange == "NASDAQ" else row.symbol,
        market_rule=row.market_rule,
        exchanges=STOCK_EXCHANGES if is_american else ("SMART", row.primary_exchange),
        long_name=row.name,
        primary_exchange=row.primary_exchange,
        sec_ids=listing.SEC_IDS.get(row.con_id, ()),
    )


def _pair(row: listing.Pair) -> Contract:
    return Contract(
        con_id=row.con_id,
        symbol=row.symbol,
        sec_type="CASH",
        currency=row.currency,
        exchange="IDEALPRO",
        local_symbol=f"{row.symbol}.{row.currency}",
        trading_class=f"{row.symbol}.{row.currency}",
        market_rule=row.market_rule,
        exchanges=FOREX_EXCHANGES,
        long_name=f"{row.symbol} cash against {row.currency}",
    )


def _index(row: listing.Index) -> Contract:
    return Contract(
        con_id=row.con_id,
        symbol=row.symbol,
        sec_type="IND",
        currency="USD",
        exchange=row.exchange,
        local_symbol=row.symbol,
        trading_class=row.symbol,
        market_rule=listing.INDEX_TICK_RULE,
        exchanges=(row.exchange,),
        long_name=row.name,
    )


def _future(root: listing.Root, delivery: futures.Delivery) -> Contract:
    return Contract(
        con_id=delivery.con_id,
        symbol=root.symbol,
        sec_type="FUT",
        currency="USD",
        exchange=root.exchange,
        local_symbol=f"{root.symbol}{delivery.code}",
        trading_class=root.symbol,
        market_rule=root.market_rule,
        exchanges=(root.exchange,),
        long_name=root.name,
        expiry=f"{delivery.expiry:%Y%m%d}",
        multiplier=root.multiplier,
        under_con_id=root.under_con_id,
        settlement="AM" if root.expires == "third friday" else "PM",
        contract_month=delivery.contract_month,
    )
