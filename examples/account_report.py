"""What the account is worth and holds, and what changes."""

from ibkr_service import Desk
from ibkr_service.core.events import PnlReported, PositionReported


async def report(desk: Desk) -> None:
    """Say what the account is worth and holds, then what changes."""
    summary = desk.account_summary()
    print(f"worth {summary.net_liquidation} {summary.base_currency}, {summary.available_funds} to spend")
    for instrument, held in desk.positions().items():
        print(f"{held.quantity:f} {instrument}, cost {held.average_cost}, worth {held.market_value}")
    desk.watch_account()
    async for event in desk.events():
        match event:
            case PositionReported():
                print(f"now {event.quantity:f} {event.instrument}")
            case PnlReported():
                print(f"today {event.daily_pnl}")
