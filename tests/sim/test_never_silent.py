"""Every request of the protocol has an answer or an error; what is silent by nature is named here.

Goal: a client never waits for ever because the simulator has not been taught something. Method: each request once as
clients write it, once cut short after every field; then everything that the gateway says within half a minute.
"""

import asyncio

import pytest

from ibkr_service.sim import Gateway, GatewayConfig
from ibkr_service.sim.loop import run
from ibkr_service.sim.messages import Request
from ibkr_service.sim.rawclient import AAPL, RawClient, combo, contract, stock
from tests.sim import orderwriter

OPTION = contract(symbol="AAPL", sec_type="OPT", expiry="20261218", strike=230, right="C", exchange="SMART")
FUNDAMENTAL = [AAPL, "AAPL", "STK", "SMART", "", "USD", "AAPL"]
EXERCISE = [0, "AAPL", "OPT", "20261218", 230, "C", "100", "SMART", "USD", "", "AAPL", 1, 1, "", 0]
HISTORY = [0, "", "1 min", "1 D", 1, "TRADES", 1, 0, ""]
PLAIN = {"orderId": 9, "conId": AAPL, "exchange": "SMART", "action": "BUY", "totalQuantity": 1, "orderType": "LMT"}
ORDER = orderwriter.fields({**PLAIN, "lmtPrice": 1}, 176)

REQUESTS = {
    Request.MKT_DATA: [11, 1, *stock(), 0, "", 0, 0, ""],
    Request.CANCEL_MKT_DATA: [2, 1],
    Request.PLACE_ORDER: ORDER,
    Request.CANCEL_ORDER: [1, 77, ""],
    Request.OPEN_ORDERS: [1],
    Request.ALL_OPEN_ORDERS: [1],
    Request.AUTO_OPEN_ORDERS: [1, 1],
    Request.ACCOUNT_UPDATES: [2, 1, ""],
    Request.EXECUTIONS: [3, 1, 0, "", "", "", "", "", ""],
    Request.IDS: [1, 1],
    Request.CONTRACT_DETAILS: [8, 1, *stock(), 0, "", "", ""],
    Request.MKT_DEPTH: [5, 1, *stock(), 5, 1, ""],
    Request.CANCEL_MKT_DEPTH: [1, 1, 1],
    Request.NEWS_BULLETINS: [1, 1],
    Request.CANCEL_NEWS_BULLETINS: [1],
    Request.SET_SERVER_LOG_LEVEL: [1, 5],
    Request.MANAGED_ACCTS: [1],
    Request.REQUEST_FA: [1, 1],
    Request.REPLACE_FA: [1, 1, "<xml/>", 1],
    Request.HISTORICAL_DATA: [1, *stock(), *HISTORY],
    Request.CANCEL_HISTORICAL_DATA: [1, 1],
    Request.EXERCISE_OPTIONS: [2, 1, *EXERCISE],
    Request.SCANNER_SUBSCRIPTION: [1, 10, "STK", "STK.US", "TOP_PERC_GAIN", *[""] * 16, "", ""],
    Request.CANCEL_SCANNER_SUBSCRIPTION: [1, 1],
    Request.SCANNER_PARAMETERS: [1],
    Request.CURRENT_TIME: [1],
    Request.REAL_TIME_BARS: [3, 1, *stock(), 5, "TRADES", 1, ""],
    Request.CANCEL_REAL_TIME_BARS: [1, 1],
    Request.FUNDAMENTAL_DATA: [2, 1, *FUNDAMENTAL, "ReportSnapshot", 0, ""],
    Request.CANCEL_FUNDAMENTAL_DATA: [1, 1],
    Request.CALCULATE_IMPLIED_VOLATILITY: [3, 1, *OPTION, 5, 230, 0, ""],
    Request.CALCULATE_OPTION_PRICE: [3, 1, *OPTION, 0.3, 230, 0, ""],
    Request.CANCEL_CALCULATE_IMPLIED_VOLATILITY: [1, 1],
    Request.CANCEL_CALCULATE_OPTION_PRICE: [1, 1],
    Request.GLOBAL_CANCEL: [1],
    Request.MARKET_DATA_TYPE: [1, 1],
    Request.POSITIONS: [1],
    Request.CANCEL_POSITIONS: [1],
    Request.ACCOUNT_SUMMARY: [1, 1, "All", "NetLiquidation"],
    Request.CANCEL_ACCOUNT_SUMMARY: [1, 1],
    Request.VERIFY_REQUEST: [1, "name", "1"],
    Request.VERIFY_MESSAGE: [1, "data"],
    Request.QUERY_DISPLAY_GROUPS: [1, 1],
    Request.SUBSCRIBE_TO_GROUP_EVENTS: [1, 1, 1],
    Request.UPDATE_DISPLAY_GROUP: [1, 1, "8314@SMART"],
    Request.UNSUBSCRIBE_FROM_GROUP_EVENTS: [1, 1],
    Request.START_API: [2, 1, ""],
    Request.VERIFY_AND_AUTH_REQUEST: [1, "name", "1", "key"],
    Request.VERIFY_AND_AUTH_MESSAGE: [1, "data", "response"],
    Request.POSITIONS_MULTI: [1, 1, "", ""],
    Request.CANCEL_POSITIONS_MULTI: [1, 1],
    Request.ACCOUNT_UPDATES_MULTI: [1, 1, "", "", 0],
    Request.CANCEL_ACCOUNT_UPDATES_MULTI: [1, 1],
    Request.SEC_DEF_OPT_PARAMS: [1, "AAPL", "", "STK", AAPL],
    Request.SOFT_DOLLAR_TIERS: [1],
    Request.FAMILY_CODES: [],
    Request.MATCHING_SYMBOLS: [1, "AAP"],
    Request.MKT_DEPTH_EXCHANGES: [],
    Request.SMART_COMPONENTS: [1, "9c0001"],
    Request.NEWS_ARTICLE: [1, "BRFG", "BRFG$1", ""],
    Request.NEWS_PROVIDERS: [],
    Request.HISTORICAL_NEWS: [1, AAPL, "BRFG", "", "", 10, ""],
    Request.HEAD_TIME_STAMP: [1, *stock(), 0, 1, "TRADES", 1],
    Request.HISTOGRAM_DATA: [1, *stock(), 0, 1, "1 day"],
    Request.CANCEL_HISTOGRAM_DATA: [1],
    Request.CANCEL_HEAD_TIME_STAMP: [1],
    Request.MARKET_RULE: [26],
    Request.PNL: [1, "", ""],
    Request.CANCEL_PNL: [1],
    Request.PNL_SINGLE: [1, "", "", AAPL],
    Request.CANCEL_PNL_SINGLE: [1],
    Request.HISTORICAL_TICKS: [1, *stock(), 0, "20261123 09:30:00", "", 10, "TRADES", 1, 0, ""],
    Request.TICK_BY_TICK_DATA: [1, *stock(), "Last", 0, 0],
    Request.CANCEL_TICK_BY_TICK_DATA: [1],
    Request.COMPLETED_ORDERS: [0],
    Request.WSH_META_DATA: [1],
    Request.CANCEL_WSH_META_DATA: [1],
    Request.WSH_EVENT_DATA: [1, AAPL, "", 0, 0, 0, "", "", 10],
    Request.CANCEL_WSH_EVENT_DATA: [1],
    Request.USER_INFO: [1],
}

# TWS takes note of these and says nothing when all is well.
SILENT = {
    *(request for request in Request if request.name.startswith(("CANCEL_", "UNSUBSCRIBE_"))),
    Request.SET_SERVER_LOG_LEVEL,
    Request.AUTO_OPEN_ORDERS,
    Request.MARKET_DATA_TYPE,
    Request.GLOBAL_CANCEL,
    Request.NEWS_BULLETINS,
    Request.ACCOUNT_UPDATES,  # with subscribe 0
}


def said(*requests):
    """Everything that a gateway says to these requests, one after the other, on one connection."""

    async def talk():
        gateway = Gateway(GatewayConfig(seed=3, requests_per_second_max=0))
        client = RawClient(gateway)
        answers = []
        for request in requests:
            client.forget()
            client.ask(*request)
            for _ in range(30):
                await asyncio.sleep(1)
                if len(client.messages) > 1:
                    break
            answers.append(client.messages[1:])
            assert not client.is_closed
            for key in list(client.session.streams):
                client.session.close_stream(*key)
        gateway.close()
        return answers

    return run(talk())


def test_the_list_is_complete():
    """Every request that has a name."""
    assert set(REQUESTS) == set(Request)


@pytest.mark.parametrize("request_", sorted(set(REQUESTS) - SILENT), ids=lambda request: request.name)
def test_a_well_formed_request_is_answered(request_):
    """Or refused, with a reason."""
    ((first, *_),) = said((request_, *REQUESTS[request_]))
    assert first[0].isdigit()


@pytest.mark.parametrize("request_", sorted(REQUESTS), ids=lambda request: request.name)
def test_a_request_that_is_cut_short_is_refused_or_answered(request_):
    """And nothing else: after it the gateway goes on as before."""
    values = REQUESTS[request_]
    cuts = [(request_, *values[:end]) for end in range(len(values))]
    answers = said(*cuts, (Request.CURRENT_TIME, 1))
    assert answers.pop()[-1][0] == "49"
    if request_ not in SILENT and request_ is not Request.MKT_DATA:
        assert all(answers)


@pytest.mark.parametrize("number", [-1, 0, 26, 48, 60, 105, 200, 999, 2**40])
def test_an_unknown_request_is_refused(number):
    """With an error that belongs to no request."""
    ((error,),) = said((number, 1, 2, 3))
    assert error[:4] == ["4", "2", "-1", "505"]


def test_details_of_a_combo_are_refused():
    """As at IB, which has none."""
    (((*_, req_id, code, _, _),),) = said((Request.CONTRACT_DETAILS, 8, 1, *combo(), 0, "", "", ""))
    assert (req_id, code) == ("1", "321")
