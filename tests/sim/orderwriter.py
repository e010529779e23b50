"""placeOrder as a client writes it, for tests: a second writing of the protocol, which shares no layout with `sim/`.

`fields(order, version)` gives the fields after the message id, for the versions 157 to 178. An order is a plain dict of
official field names; what it leaves out is written as clients write what is unset.
"""

UNSET = "1.7976931348623157e+308"
DEFAULTS = {"transmit": 1, "exemptCode": -1, "origin": 0, "parentId": 0, "whatIf": 0, "ocaType": 0, "triggerMethod": 0}


def fields(order, version):
    """The fields of a placeOrder after its message id."""
    writer = _Writer(order, version)
    writer.write()
    return writer.texts


class _Writer:
    def __init__(self, order, version):
        self.order = {**DEFAULTS, **order}
        self.version = version
        self.texts = []

    def put(self, *values):
        self.texts += [str(int(value)) if isinstance(value, bool) else str(value) for value in values]

    def named(self, names):
        self.put(*(self.order.get(name, "") for name in names.split()))

    def list(self, name):
        rows = self.order.get(name, [])
        self.put(len(rows), *(value for row in rows for value in row))

    def since(self, version, names):
        if self.version >= version:
            self.named(names)

    def write(self):
        self.put(self.order["orderId"])
        self.contract()
        self.named("secIdType secId action totalQuantity orderType lmtPrice auxPrice tif ocaGroup account openClose")
        self.named(
            "origin orderRef transmit parentId blockOrder sweepToFill displaySize triggerMethod outsideRth hidden"
        )
        if self.order.get("secType") == "BAG":
            for name in ("comboLegs", "orderComboLegs", "smartComboRoutingParams"):
                self.list(name)
        self.put("")
        self.named("discretionaryAmt goodAfterTime goodTillDate faGroup faMethod faPercentage")
        if self.version < 177:
            self.named("faProfile")
        self.named(
            "modelCode shortSaleSlot designatedLocation exemptCode ocaType rule80A settlingFirm allOrNone minQty"
        )
        self.named(
            "percentOffset eTradeOnly firmQuoteOnly nbboPriceCap auctionStrategy startingPrice stockRefPrice delta"
        )
        self.named("stockRangeLower stockRangeUpper overridePercentageConstraints volatility volatilityType")
        self.named("deltaNeutralOrderType deltaNeutralAuxPrice")
        if self.order.get("deltaNeutralOrderType"):
            self.named("deltaNeutralConId deltaNeutralSettlingFirm deltaNeutralClearingAccount")
            self.named("deltaNeutralClearingIntent deltaNeutralOpenClose deltaNeutralShortSale")
            self.named("deltaNeutralShortSaleSlot deltaNeutralDesignatedLocation")
        self.named("continuousUpdate referencePriceType trailStopPrice trailingPercent")
        self.scale()
        self.named("scaleTable activeStartTime activeStopTime hedgeType")
        if self.order.get("hedgeType"):
            self.named("hedgeParam")
        self.named("optOutSmartRouting clearingAccount clearingIntent notHeld")
        self.put(0)  # no delta-neutral contract
        self.named("algoStrategy")
        if self.order.get("algoStrategy"):
            self.list("algoParams")
        self.named("algoId whatIf orderMiscOptions solicited randomizeSize randomizePrice")
        if self.order["orderType"] == "PEG BENCH":
            self.named("referenceContractId isPeggedChangeAmountDecrease peggedChangeAmount referenceChangeAmount")
            self.named("referenceExchangeId")
        self.conditions()
        self.adjustments()
        self.tail()

    def contract(self):
        self.named("conId symbol secType lastTradeDate strike right multiplier exchange primaryExchange currency")
        self.named("localSymbol tradingClass")

    def scale(self):
        self.named("scaleInitLevelSize scaleSubsLevelSize scalePriceIncrement")
        if self.order.get("scalePriceIncrement"):
            self.named("scalePriceAdjustValue scalePriceAdjustInterval scaleProfitOffset scaleAutoReset")
            self.named("scaleInitPosition scaleInitFillQty scaleRandomPercent")

    def conditions(self):
        conditions = self.order.get("conditions", [])
        self.put(len(conditions), *(value for condition in conditions for value in condition))
        if conditions:
            self.named("conditionsIgnoreRth conditionsCancelOrder")

    def adjustments(self):
        self.named("adjustedOrderType")
        for name in ("triggerPrice", "lmtPriceOffset", "adjustedStopPrice", "adjustedStopLimitPrice"):
            self.put(self.order.get(name, UNSET))
        self.put(self.order.get("adjustedTrailingAmount", UNSET))
        self.named("adjustableTrailingUnit extOperator softDollarTierName softDollarTierValue")
        self.put(self.order.get("cashQty", UNSET))
        self.named("mifid2DecisionMaker mifid2DecisionAlgo mifid2ExecutionTrader mifid2ExecutionAlgo")
        self.named("dontUseAutoPriceForHedge isOmsContainer discretionaryUpToLimitPrice usePriceMgmtAlgo")

    def tail(self):
        self.since(158, "duration")
        self.since(160, "postToAts")
        self.since(162, "autoCancelParent")
        self.since(166, "advancedErrorOverride")
        self.since(169, "manualOrderTime")
        if self.version < 170:
            return
        if self.order.get("exchange") == "IBKRATS":
            self.named("minTradeQty")
        has_offsets = self.order["orderType"] == "PEG MID"
        if self.order["orderType"] == "PEG BEST":
            self.named("minCompeteSize competeAgainstBestOffset")
            has_offsets = self.order.get("competeAgainstBestOffset") in {"Infinity", "Infinite"}
        if has_offsets:
            self.named("midOffsetAtWhole midOffsetAtHalf")
