Feature: What the account is worth and what it holds
  A strategy can ask at any moment what the account is worth and what it holds. The answer is the broker's own, of this
  very session, or an error: never an empty list because nothing had arrived, never a zero because nothing was known.

  Rule: The summary is the broker's

    Scenario: The summary has cash and equity
      Given the service is READY
      Then the summary is in USD
      And the summary has these amounts
        | net liquidation      | 1,000,000 |
        | total cash           | 1,000,000 |
        | equity with loan     | 1,000,000 |
        | initial margin       | 0         |
        | maintenance margin   | 0         |
        | available funds      | 1,000,000 |
        | excess liquidity     | 1,000,000 |
        | buying power         | 4,000,000 |
        | gross position value | 0         |
      And day trades are unlimited

    Scenario: The summary follows a trade
      Given the service is READY
      And the account has bought 100 AAPL
      Then the gross position value is what 100 AAPL are worth
      And the initial margin is more than 0
      And available funds are equity with loan less initial margin
      And excess liquidity is equity with loan less maintenance margin
      And the profit and loss of the day is known

    Scenario: Cash in two currencies
      Given the service is READY
      And the account has bought 20,000 EUR.USD
      Then the account has 20,000 EUR in cash, at the rate at which EUR.USD is quoted
      And the cash in USD is less than 1,000,000

    Scenario: What the broker does not offer is unknown, not zero
      Given a gateway that offers no profit and loss
      And the service is READY
      And the account has bought 100 AAPL
      Then the profit and loss of the day is unknown
      And the profit and loss of the day of AAPL is unknown
      And the account holds 100 AAPL
      And the link is READY

  Rule: Positions are kept by instrument

    Scenario: A position has quantity, cost, value and profit
      Given the service is READY
      And the account has bought 100 AAPL
      Then the account holds 100 AAPL
      And the average cost of AAPL is what was paid, commissions included
      And the market value of AAPL is 100 times its market price
      And the unrealised profit of AAPL is its market value less its cost
      And the profit and loss of the day of AAPL is known

    Scenario: An option and its stock do not collide
      Given an account that holds 100 AAPL and 2 calls on AAPL, bought at 3.00
      And the service is READY
      Then the account holds 100 AAPL
      And the account holds 2 of the call
      And the average cost of the call is 300
      And the market value of the call is 200 times its market price

    Scenario: A closed position is gone
      Given the service is READY
      And the account has bought 100 AAPL
      When the account sells 100 AAPL
      Then the account holds nothing

    Scenario: A position update changes the data and is logged
      Given the service is READY
      And the account has bought 100 AAPL
      When the account buys 50 AAPL
      Then the account holds 150 AAPL
      And the strategy was told of 100 and then of 150 AAPL
      And the log has a line for each, with instrument, quantity and average cost, for the account DU…567

  Rule: Each account of a login is by itself

    Background:
      Given a login with the accounts DU1234567 and DU7654321
      And the account DU1234567 is chosen

    Scenario: Two accounts
      Given the account DU7654321 holds 7 AAPL
      And the service is READY
      And the account has bought 20,000 EUR.USD
      When 5 seconds pass
      Then the account holds 20,000 EUR.USD and nothing else
      And the account DU7654321 holds 7 AAPL and nothing else
      And the account DU7654321 has 1,000,000 USD less the price of 7 AAPL in cash

    Scenario: An account of somebody else
      Given the service is READY
      Then summary and positions of the account DU9999999 are refused, since the login does not manage it

    Scenario: The values of the other account have not come
      Given a gateway that does not tell the values of other accounts
      And the service is READY
      When 1 minute passes
      Then the summary of the account DU7654321 is refused, since it is not known
      And the summary has these amounts
        | net liquidation | 1,000,000 |
      When the gateway answers all questions again
      And 6 minutes pass
      Then the account DU7654321 is worth 1,000,000

  Rule: An error instead of an empty answer

    Scenario Outline: While the line is <state>
      Given the service is READY
      And the account has bought 100 AAPL
      When <misfortune>
      And 10 seconds pass
      Then the link is <state>
      And summary and positions are refused, since the link is <state>

      Examples:
        | state   | misfortune                                                          |
        | CUT     | the gateway loses Interactive Brokers                               |
        | DOWN    | the gateway goes away                                               |
        | SYNCING | the connection breaks, and the positions are not told any more      |
        | SYNCING | the connection breaks, and the account values are not told any more |

    Scenario: After a reconnect the values are of the new session
      Given the service is READY
      And the account has bought 100 AAPL
      When the gateway goes away
      And meanwhile the account buys 50 AAPL by other means and receives 5,000 USD
      And the gateway comes back
      Then the service becomes READY within 2 minutes
      And the account holds 150 AAPL
      And the summary says what the gateway knows
      And no figure is older than the new session

    Scenario: Changes come to a strategy that watches the account
      Given the service is READY
      And the account has bought 100 AAPL
      And the strategy watches the account
      When 4 minutes pass
      Then it was told of values, the portfolio, and profit and loss
