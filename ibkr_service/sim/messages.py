"""The vocabulary of the TWS API: what a client may ask, what a gateway may say, and since which version.

Numbers are those of the official API. Names are the official ones without their ``req`` prefix. A change of layout
between server versions is named in `Since`, so that every place that depends on a version can be found by searching for
it.
"""

from enum import IntEnum
from typing import Final

SERVER_VERSION_MAX: Final = 178
"""What this gateway speaks; a client that speaks less gets less. From 201 on the framing would be another one."""

SERVER_VERSION_MIN: Final = 157
"""ib_insync refuses gateways below this, so this gateway refuses clients below it."""

FREE_TEXT_ID: Final = -1
"""The id of an error that belongs to no request."""


class Since(IntEnum):
    """The server version that introduced a change of layout."""

    ORDER_DURATION = 158
    ORDER_POST_TO_ATS = 160
    ORDER_AUTO_CANCEL_PARENT = 162
    CONTRACT_SIZE_INCREMENTS = 164
    ERROR_REJECT_JSON = 166
    ORDER_MANUAL_TIME = 169
    ORDER_PEG_BEST = 170
    ORDER_CANCEL_TIME = 169
    SYMBOL_DESCRIPTION = 176
    FA_PROFILE_GONE = 177
    EXECUTION_PENDING_PRICE = 178


class Request(IntEnum):
    """What a client may ask."""

    MKT_DATA = 1
    CANCEL_MKT_DATA = 2
    PLACE_ORDER = 3
    CANCEL_ORDER = 4
    OPEN_ORDERS = 5
    ACCOUNT_UPDATES = 6
    EXECUTIONS = 7
    IDS = 8
    CONTRACT_DETAILS = 9
    MKT_DEPTH = 10
    CANCEL_MKT_DEPTH = 11
    NEWS_BULLETINS = 12
    CANCEL_NEWS_BULLETINS = 13
    SET_SERVER_LOG_LEVEL = 14
    AUTO_OPEN_ORDERS = 15
    ALL_OPEN_ORDERS = 16
    MANAGED_ACCTS = 17
    REQUEST_FA = 18
    REPLACE_FA = 19
    HISTORICAL_DATA = 20
    EXERCISE_OPTIONS = 21
    SCANNER_SUBSCRIPTION = 22
    CANCEL_SCANNER_SUBSCRIPTION = 23
    SCANNER_PARAMETERS = 24
    CANCEL_HISTORICAL_DATA = 25
    CURRENT_TIME = 49
    REAL_TIME_BARS = 50
    CANCEL_REAL_TIME_BARS = 51
    FUNDAMENTAL_DATA = 52
    CANCEL_FUNDAMENTAL_DATA = 53
    CALCULATE_IMPLIED_VOLATILITY = 54
    CALCULATE_OPTION_PRICE = 55
    CANCEL_CALCULATE_IMPLIED_VOLATILITY = 56
    CANCEL_CALCULATE_OPTION_PRICE = 57
    GLOBAL_CANCEL = 58
    MARKET_DATA_TYPE = 59
    POSITIONS = 61
    ACCOUNT_SUMMARY = 62
    CANCEL_ACCOUNT_SUMMARY = 63
    CANCEL_POSITIONS = 64
    VERIFY_REQUEST = 65
    VERIFY_MESSAGE = 66
    QUERY_DISPLAY_GROUPS = 67
    SUBSCRIBE_TO_GROUP_EVENTS = 68
    UPDATE_DISPLAY_GROUP = 69
    UNSUBSCRIBE_FROM_GROUP_EVENTS = 70
    START_API = 71
    VERIFY_AND_AUTH_REQUEST = 72
    VERIFY_AND_AUTH_MESSAGE = 73
    POSITIONS_MULTI = 74
    CANCEL_POSITIONS_MULTI = 75
    ACCOUNT_UPDATES_MULTI = 76
    CANCEL_ACCOUNT_UPDATES_MULTI = 77
    SEC_DEF_OPT_PARAMS = 78
    SOFT_DOLLAR_TIERS = 79
    FAMILY_CODES = 80
    MATCHING_SYMBOLS = 81
    MKT_DEPTH_EXCHANGES = 82
    SMART_COMPONENTS = 83
    NEWS_ARTICLE = 84
    NEWS_PROVIDERS = 85
    HISTORICAL_NEWS = 86
    HEAD_TIME_STAMP = 87
    HISTOGRAM_DATA = 88
    CANCEL_HISTOGRAM_DATA = 89
    CANCEL_HEAD_TIME_STAMP = 90
    MARKET_RULE = 91
    PNL = 92
    CANCEL_PNL = 93
    PNL_SINGLE = 94
    CANCEL_PNL_SINGLE = 95
    HISTORICAL_TICKS = 96
    TICK_BY_TICK_DATA = 97
    CANCEL_TICK_BY_TICK_DATA = 98
    COMPLETED_ORDERS = 99
    WSH_META_DATA = 100
    CANCEL_WSH_META_DATA = 101
    WSH_EVENT_DATA = 102
    CANCEL_WSH_EVENT_DATA = 103
    USER_INFO = 104


class Answer(IntEnum):
    """What a gateway may say."""

    TICK_PRICE = 1
    TICK_SIZE = 2
    ORDER_STATUS = 3
    ERROR = 4
    OPEN_ORDER = 5
    ACCOUNT_VALUE = 6
    PORTFOLIO = 7
    ACCOUNT_TIME = 8
    NEXT_VALID_ID = 9
    CONTRACT_DETAILS = 10
    EXEC_DETAILS = 11
    MARKET_DEPTH = 12
    MARKET_DEPTH_L2 = 13
    NEWS_BULLETINS = 14
    MANAGED_ACCOUNTS = 15
    RECEIVE_FA = 16
    HISTORICAL_DATA = 17
    BOND_CONTRACT_DETAILS = 18
    SCANNER_PARAMETERS = 19
    SCANNER_DATA = 20
    TICK_OPTION_COMPUTATION = 21
    TICK_GENERIC = 45
    TICK_STRING = 46
    TICK_EFP = 47
    CURRENT_TIME = 49
    REAL_TIME_BARS = 50
    FUNDAMENTAL_DATA = 51
    CONTRACT_DETAILS_END = 52
    OPEN_ORDER_END = 53
    ACCOUNT_DOWNLOAD_END = 54
    EXEC_DETAILS_END = 55
    DELTA_NEUTRAL_VALIDATION = 56
    TICK_SNAPSHOT_END = 57
    MARKET_DATA_TYPE = 58
    COMMISSION_REPORT = 59
    POSITION = 61
    POSITION_END = 62
    ACCOUNT_SUMMARY = 63
    ACCOUNT_SUMMARY_END = 64
    DISPLAY_GROUP_LIST = 67
    DISPLAY_GROUP_UPDATED = 68
    POSITION_MULTI = 71
    POSITION_MULTI_END = 72
    ACCOUNT_UPDATE_MULTI = 73
    ACCOUNT_UPDATE_MULTI_END = 74
    SEC_DEF_OPT_PARAMS = 75
    SEC_DEF_OPT_PARAMS_END = 76
    SOFT_DOLLAR_TIERS = 77
    FAMILY_CODES = 78
    SYMBOL_SAMPLES = 79
    MKT_DEPTH_EXCHANGES = 80
    TICK_REQ_PARAMS = 81
    SMART_COMPONENTS = 82
    NEWS_ARTICLE = 83
    TICK_NEWS = 84
    NEWS_PROVIDERS = 85
    HISTORICAL_NEWS = 86
    HISTORICAL_NEWS_END = 87
    HEAD_TIMESTAMP = 88
    HISTOGRAM_DATA = 89
    HISTORICAL_DATA_UPDATE = 90
    REROUTE_MKT_DATA = 91
    REROUTE_MKT_DEPTH = 92
    MARKET_RULE = 93
    PNL = 94
    PNL_SINGLE = 95
    HISTORICAL_TICKS = 96
    HISTORICAL_TICKS_BID_ASK = 97
    HISTORICAL_TICKS_LAST = 98
    TICK_BY_TICK = 99
    ORDER_BOUND = 100
    COMPLETED_ORDER = 101
    COMPLETED_ORDERS_END = 102
    REPLACE_FA_END = 103
    WSH_META_DATA = 104
    WSH_EVENT_DATA = 105
    HISTORICAL_SCHEDULE = 106
    USER_INFO = 107


NO_REQUEST_ID: Final = frozenset(
    {
        Request.OPEN_ORDERS,
        Request.ACCOUNT_UPDATES,
        Request.IDS,
        Request.NEWS_BULLETINS,
        Request.CANCEL_NEWS_BULLETINS,
        Request.SET_SERVER_LOG_LEVEL,
        Request.AUTO_OPEN_ORDERS,
        Request.ALL_OPEN_ORDERS,
        Request.MANAGED_ACCTS,
        Request.REQUEST_FA,
        Request.REPLACE_FA,
        Request.SCANNER_PARAMETERS,
        Request.CURRENT_TIME,
        Request.GLOBAL_CANCEL,
        Request.MARKET_DATA_TYPE,
        Request.POSITIONS,
        Request.CANCEL_POSITIONS,
        Request.VERIFY_REQUEST,
        Request.VERIFY_MESSAGE,
        Request.START_API,
        Request.VERIFY_AND_AUTH_REQUEST,
        Request.VERIFY_AND_AUTH_MESSAGE,
        Request.FAMILY_CODES,
        Request.MKT_DEPTH_EXCHANGES,
        Request.NEWS_PROVIDERS,
        Request.MARKET_RULE,
        Request.COMPLETED_ORDERS,
    }
)
"""Requests that carry no id of their own: an error about them has the id -1."""

NO_VERSION_FIELD: Final = frozenset({Request.PLACE_ORDER, Request.HISTORICAL_DATA, Request.SCANNER_SUBSCRIPTION}) | {
    request for request in Request if request >= Request.SEC_DEF_OPT_PARAMS
}
"""Requests whose first field after the message id is not a version number."""


def request_id_of(values: tuple[str, ...]) -> int:
    """Find the id that an answer to this request must carry, -1 when it has none or it cannot be read."""
    try:
        request = Request(int(values[0]))
        if request in NO_REQUEST_ID:
            return FREE_TEXT_ID
        return int(values[1 if request in NO_VERSION_FIELD else 2])
    except (ValueError, IndexError):
        return FREE_TEXT_ID


def named(enumeration: type[Request] | type[Answer], wanted: str | int) -> int:
    """Find a message by number or by any spelling of its name: ``reqPositions``, ``positions``, ``POSITIONS``."""
    if isinstance(wanted, int):
        return enumeration(wanted).value
    plain = _plain(wanted)
    for member in enumeration:
        if _plain(member.name) in {plain, plain.removeprefix("req")}:
            return member.value
    raise ValueError(f"no {enumeration.__name__.lower()} is called {wanted!r}")


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
