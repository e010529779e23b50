Feature: Orders are never lost and never doubled
  Whoever places an order can account for it at any moment. What holds is what the broker says, and each refusal comes
  with its reason, before anything has left where that is possible.

  Rule: An order is followed from its submission to its end

    Scenario: A limit order is tracked to its fill
      Given the service is READY
      When a strategy buys 10 AAPL at most 5 above the market
      Then the order was SENT, WORKING and FILLED, in this order
      And 10 AAPL are held
      And book and gateway agree

    Scenario: An open order is cancelled
      Given the service is READY
      And a strategy buys 10 AAPL at most 20 below the market
      When it cancels the order
      Then the order is CANCELLED
      And the gateway holds no open order

    Scenario: A market order in a closed market is refused with the reason
      Given a market that keeps real hours, and is closed
      And the service is READY
      When a strategy buys 10 AAPL at the market
      Then it is refused because the last quote is too old to price it with
      And the refusal is in the log
      And the gateway has seen 0 orders

    Scenario: The broker rejects an order
      Given the service is READY
      And the broker will reject the next order because "Order rejected - reason:The exchange is closed."
      When a strategy buys 10 AAPL at most 20 below the market
      Then the order is REJECTED because "The exchange is closed"
      And the log says why the broker rejected it

  Rule: An option spread is one order, and no sign of it can be got wrong

    Scenario: A limit order for a bull call spread is tracked from submission to fill
      Given the service is READY
      And the option chain of AAPL
      When a script places "LONG" 1 bull call spread with a limit 0.50 above the market
      Then the order was SENT, WORKING and FILLED, in this order
      And the log says that it pays at most that
      And the legs of 1 spread are held
      And book and gateway agree

    Scenario: A market order for two bear put spreads fills
      Given the service is READY
      And the option chain of AAPL
      When a script places "LONG" 2 bear put spreads at the market
      Then the order was SENT, WORKING and FILLED, in this order
      And the legs of 2 spreads are held
      And book and gateway agree

    Scenario: A limit whose word contradicts the spread is refused before anything is written
      Given the service is READY
      And the option chain of AAPL
      When a script asks for a credit of 2.85 to go LONG a bull call spread
      Then it is refused because "is always a debit"
      And the gateway has seen 0 orders

  Rule: Orders that belong together are placed together

    Scenario: A bracket ends in one exit
      Given the service is READY
      When a strategy buys 10 AAPL in a bracket
      And the take profit is reached
      Then entry and take profit are FILLED, and the stop loss is CANCELLED
      And 0 AAPL are held
      And book and gateway agree

  Rule: A modification is a wish; the broker's word holds

    Scenario: A working order is modified
      Given the service is READY
      And a strategy buys 10 AAPL at most 20 below the market
      When it changes the quantity to 7
      Then the broker has accepted the change
      And the gateway holds an order for 7
      And the order is WORKING

    Scenario: A refused modification leaves the order as it was
      Given the service is READY
      And a strategy buys 10 AAPL at most 20 below the market
      And the broker will reject the next order because "Order rejected - reason:not today"
      When it changes the quantity to 7
      Then the broker has refused the change
      And the gateway holds an order for 10
      And the order is WORKING

  Rule: What an order would do can be asked before it is placed

    Scenario: A preview shows margin and commission
      Given the service is READY
      When a strategy previews 100 AAPL
      Then the preview shows more margin and a commission
      And the gateway holds no open order
