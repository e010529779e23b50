"""The layouts of orders on the wire, as data: the official field names in their order.

Groups that repeat, or that only some orders or versions have, are named in angle brackets; `orderread.py` and
`orderwrite.py` know how to take and to write them. A new field of the protocol is a word here.
"""

from functools import lru_cache
from typing import Final

from ibkr_service.sim.messages import Since


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CORE: Final = _names("""
    secIdType secId action totalQuantity orderType lmtPrice auxPrice tif ocaGroup account openClose origin orderRef
    transmit parentId blockOrder sweepToFill displaySize triggerMethod outsideRth hidden
""")

PLACE_TAIL: Final = _names("""
    sharesAllocation discretionaryAmt goodAfterTime goodTillDate faGroup faMethod faPercentage faProfile modelCode
    shortSaleSlot designatedLocation exemptCode ocaType rule80A settlingFirm allOrNone minQty percentOffset
    eTradeOnly firmQuoteOnly nbboPriceCap auctionStrategy startingPrice stockRefPrice delta stockRangeLower
    stockRangeUpper overridePercentageConstraints volatility volatilityType deltaNeutralOrderType
    deltaNeutralAuxPrice <deltaNeutral> continuousUpdate referencePriceType trailStopPrice trailingPercent
    scaleInitLevelSize scaleSubsLevelSize scalePriceIncrement <scale> scaleTable activeStartTime activeStopTime
    hedgeType <hedge> optOutSmartRouting clearingAccount clearingIntent notHeld <deltaNeutralContract> algoStrategy
    <algo> algoId whatIf orderMiscOptions solicited randomizeSize randomizePrice <pegBench> <conditions>
    adjustedOrderType triggerPrice lmtPriceOffset adjustedStopPrice adjustedStopLimitPrice adjustedTrailingAmount
    adjustableTrailingUnit extOperator softDollarTierName softDollarTierValue cashQty mifid2DecisionMaker
    mifid2DecisionAlgo mifid2ExecutionTrader mifid2ExecutionAlgo dontUseAutoPriceForHedge isOmsContainer
    discretionaryUpToLimitPrice usePriceMgmtAlgo <versions>
""")

OPEN_LAYOUT: Final = _names("""
    action totalQuantity orderType lmtPrice auxPrice tif ocaGroup account openClose origin orderRef clientId permId
    outsideRth hidden discretionaryAmt goodAfterTime sharesAllocation faGroup faMethod faPercentage faProfile
    modelCode goodTillDate rule80A percentOffset settlingFirm shortSaleSlot designatedLocation exemptCode
    auctionStrategy startingPrice stockRefPrice delta stockRangeLower stockRangeUpper displaySize blockOrder
    sweepToFill allOrNone minQty ocaType eTradeOnly firmQuoteOnly nbboPriceCap parentId triggerMethod volatility
    volatilityType deltaNeutralOrderType deltaNeutralAuxPrice <deltaNeutral> continuousUpdate referencePriceType
    trailStopPrice trailingPercent basisPoints basisPointsType comboLegsDescrip <legs> scaleInitLevelSize
    scaleSubsLevelSize scalePriceIncrement <scale> hedgeType <hedge> optOutSmartRouting clearingAccount
    clearingIntent notHeld <deltaNeutralContract> algoStrategy <algo> solicited whatIf <state> randomizeSize
    randomizePrice <pegBench> <conditions> adjustedOrderType triggerPrice trailStopPrice lmtPriceOffset
    adjustedStopPrice adjustedStopLimitPrice adjustedTrailingAmount adjustableTrailingUnit softDollarTierName
    softDollarTierValue softDollarTierDisplay cashQty dontUseAutoPriceForHedge isOmsContainer
    discretionaryUpToLimitPrice usePriceMgmtAlgo <versions>
""")

COMPLETED_LAYOUT: Final = _names("""
    action totalQuantity orderType lmtPrice auxPrice tif ocaGroup account openClose origin orderRef permId
    outsideRth hidden discretionaryAmt goodAfterTime faGroup faMethod faPercentage faProfile modelCode goodTillDate
    rule80A percentOffset settlingFirm shortSaleSlot designatedLocation exemptCode startingPrice stockRefPrice delta
    stockRangeLower stockRangeUpper displaySize sweepToFill allOrNone minQty ocaType triggerMethod volatility
    volatilityType deltaNeutralOrderType deltaNeutralAuxPrice <deltaNeutralShort> continuousUpdate
    referencePriceType trailStopPrice trailingPercent comboLegsDescrip <legs> scaleInitLevelSize scaleSubsLevelSize
    scalePriceIncrement <scale> hedgeType <hedge> clearingAccount clearingIntent notHeld <deltaNeutralContract>
    algoStrategy <algo> solicited status randomizeSize randomizePrice <pegBench> <conditions> trailStopPrice
    lmtPriceOffset cashQty dontUseAutoPriceForHedge isOmsContainer autoCancelDate filledQuantity refFuturesConId
    autoCancelParent shareholder imbalanceOnly routeMarketableToBbo parentPermId completedTime completedStatus
    <pegBest>
""")

DELTA_NEUTRAL: Final = _names("""
    deltaNeutralConId deltaNeutralSettlingFirm deltaNeutralClearingAccount deltaNeutralClearingIntent
    deltaNeutralOpenClose deltaNeutralShortSale deltaNeutralShortSaleSlot deltaNeutralDesignatedLocation
""")
DELTA_NEUTRAL_SHORT: Final = (DELTA_NEUTRAL[0], *DELTA_NEUTRAL[5:])
SCALE: Final = _names("""
    scalePriceAdjustValue scalePriceAdjustInterval scaleProfitOffset scaleAutoReset scaleInitPosition
    scaleInitFillQty scaleRandomPercent
""")
PEG_BENCH: Final = _names("""
    referenceContractId isPeggedChangeAmountDecrease peggedChangeAmount referenceChangeAmount referenceExchangeId
""")
PEG_BEST: Final = _names("minTradeQty minCompeteSize competeAgainstBestOffset midOffsetAtWhole midOffsetAtHalf")
VERSIONS: Final = (
    ("duration", Since.ORDER_DURATION),
    ("postToAts", Since.ORDER_POST_TO_ATS),
    ("autoCancelParent", Since.ORDER_AUTO_CANCEL_PARENT),
)
PLACE_VERSIONS: Final = (
    *VERSIONS,
    ("advancedErrorOverride", Since.ERROR_REJECT_JSON),
    ("manualOrderTime", Since.ORDER_MANUAL_TIME),
)
GONE_SINCE: Final = {"faProfile": Since.FA_PROFILE_GONE}
"""Fields that later versions have no more: from this version on they are not on the wire at all."""

STATE_NUMBERS: Final = _names("""
    initMarginBefore maintMarginBefore equityWithLoanBefore initMarginChange maintMarginChange equityWithLoanChange
    initMarginAfter maintMarginAfter equityWithLoanAfter
""")
CONDITION_FIELDS: Final = {1: 6, 3: 3, 4: 3, 5: 4, 6: 5, 7: 5}
"""Condition type → how many fields follow it."""

FREE_TEXT: Final = frozenset({"orderRef", "account", "ocaGroup", "modelCode"})
"""Fields whose text is the client's own, even when it looks like an unset number."""


@lru_cache(maxsize=256)
def of_version(layout: tuple[str, ...], version: int) -> tuple[str, ...]:
    """The layout as a version has it."""
    return tuple(name for name in layout if version < GONE_SINCE.get(name, version + 1))


SERVER_DEFAULTS: Final = {"deltaNeutralOrderType": "None", "adjustedOrderType": "None", "deltaNeutralOpenClose": "?"}
"""What TWS writes where the client wrote nothing: a client that sends such an order back is in for a surprise."""
