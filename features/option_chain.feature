Feature: The option chain of an underlying
  A strategy asks for the options around the money and gets them with prices and greeks, or is told what is missing.
  It never gets the options of another settlement, of another class, or of a guessed price.

  Rule: Calls and puts, each with prices and greeks

    Scenario: The chain of a stock
      Given the service is READY
      When the strategy asks for the chain of AAPL with 2 expiries and 6 strikes
      Then the chain is complete, with 12 calls and 12 puts
      And each option has bid, ask, last, sizes, volume and open interest
      And each option has implied volatility, delta, gamma, theta, vega and rho, from the broker
      And calls have positive deltas and puts negative ones
      And the gateway was asked for contracts once per expiry
      And no market-data line is left

    Scenario: The chain of an index
      Given the service is READY
      When the strategy asks for the chain of SPX with 1 expiry and 4 strikes
      Then the chain is complete, with 4 calls and 4 puts
      And the price of the underlying is near to 5,900

    Scenario: The chain of a future
      Given the service is READY
      When the strategy asks for the chain of ES 202612 with 2 expiries and 4 strikes
      Then the chain is complete, with 8 calls and 8 puts
      And its contracts have the multiplier 50 and trade at CME

    Scenario: The broker sends no greeks
      Given a gateway that sends no greeks
      And the service is READY
      When the strategy asks for the chain of AAPL with 1 expiry and 4 strikes
      Then the chain is complete, with 4 calls and 4 puts
      And each option has implied volatility, delta, gamma, theta, vega and rho, computed by the service
      And it took less than 10 seconds

  Rule: The strikes that are wanted

    Scenario: At the money
      Given the service is READY
      When the strategy asks for the chain of AAPL with 1 expiry and 1 strike
      Then the only strike is the one that is nearest to the price of AAPL
      And the deltas of its call and its put are near to 0.5 and -0.5

    Scenario: Half of the strikes are below the money and half above
      Given the service is READY
      When the strategy asks for the chain of AAPL with 1 expiry and 10 strikes
      Then 5 strikes are below the price of AAPL and 5 above

    Scenario: By delta
      Given the service is READY
      When the strategy asks for the chain of AAPL with 1 expiry and 20 strikes
      Then the call whose delta is nearest to 0.30 is above the money
      And the put whose delta is nearest to -0.30 is below the money

  Rule: Options of one date that settle at different hours are not mixed

    Scenario: SPX and SPXW on the third Friday
      Given the service is READY
      When the strategy asks for the chain of SPX of 20261218 with 4 strikes
      Then the chain has these slices
        | expiry   | class | settles | options |
        | 20261218 | SPX   | AM      | 8       |
        | 20261218 | SPXW  | PM      | 8       |
      And no contract is in both

    Scenario: One of them by name
      Given the service is READY
      When the strategy asks for the chain of SPX of 20261218 in the class SPXW with 4 strikes
      Then the chain has these slices
        | expiry   | class | settles | options |
        | 20261218 | SPXW  | PM      | 8       |

  Rule: An error instead of an empty chain

    Scenario: The chain of an invalid symbol
      Given the service is READY
      When the strategy asks for the chain of NOSUCH with 2 expiries and 6 strikes
      Then that fails with UnknownInstrument, which says "NOSUCH"
      And the log has one error about the chain of NOSUCH, UnknownInstrument
      And no market-data line is left

    Scenario: An expiry that is not listed
      Given the service is READY
      When the strategy asks for the chain of AAPL of 20261128 with 4 strikes
      Then that fails with InvalidIntent, which says "AAPL has no expiry 20261128; the first are ['20261127'"
      And the log has one error about the chain of AAPL, InvalidIntent

    Scenario: No price of the underlying
      Given a gateway without permission for market data
      And the service is READY
      When the strategy asks for the chain of AAPL with 1 expiry and 4 strikes
      Then that fails with BrokerRefused, which says "not subscribed"

    Scenario: The link is down
      Given the service is READY
      When the gateway loses Interactive Brokers
      And 5 seconds pass
      And the strategy asks for the chain of AAPL with 1 expiry and 4 strikes
      Then that fails with NotReady, which says "the link is CUT"

  Rule: At the deadline there is what there is, and what is missing has a name

    Scenario: Quotes that do not come
      Given a gateway that sends no quotes of options
      And the service is READY
      When the strategy asks for the chain of AAPL with 1 expiry and 4 strikes, within 10 seconds
      Then it took 10 seconds
      And the chain is not complete: all 8 options miss quote and greeks
      And the log has one warning that 8 are missing in the chain of AAPL

    Scenario: Too few market-data lines
      Given an account with 10 market-data lines
      And the service is READY
      When the strategy asks for the chain of AAPL with 2 expiries and 20 strikes
      Then the chain is complete, with 40 calls and 40 puts
      And the gateway never served more than 10 lines
      And no market-data line is left

    Scenario: The connection breaks while a chain is fetched
      Given a gateway that takes its time
      And the service is READY
      When the strategy asks for the chain of AAPL with 2 expiries and 10 strikes, and the connection breaks after 1 second
      Then the chain is complete, with 20 calls and 20 puts
      And no market-data line is left
