Feature: No order passes a limit
  The limits are the owner's, not the strategies'. An order that would pass one is refused before a byte leaves, and the
  refusal says which limit it is, its value, and what was asked. What makes a position smaller passes the limits that
  are there to keep positions from being opened.

  Rule: What one order may be

    Scenario Outline: An order beyond a limit is refused with the limit, its value and what was asked
      Given the limit <limit> is <value>
      And the service is READY
      When a strategy wants to <order>
      Then it is refused by <limit>, which allows "<value>", since it asked for "<asked>"
      And the gateway has seen 0 orders

      Examples:
        | limit        | value | order                              | asked |
        | max_quantity | 100   | buy 101 AAPL at 100                | 101   |
        | max_notional | 5000  | buy 51 AAPL at 100                 | 5100  |
        | max_premium  | 500   | buy 2 AAPL 20270115 230 C at 3     | 600   |
        | max_loss     | 500   | buy 2 AAPL 20270115 230 C at 3     | 600   |
        | max_position | 50    | buy 51 AAPL at 100                 | 51 AAPL with all that is working |
        | symbols      | MSFT  | buy 1 AAPL at 100                  | AAPL  |

    Scenario: A naked call can lose without bound
      Given unlimited losses are not allowed
      And the service is READY
      When a strategy wants to sell 1 AAPL 20270115 230 C at 9
      Then it is refused by max_loss
      And the gateway has seen 0 orders

    Scenario: A limit far through the market is a mistake
      Given the limit collar_percent is 5
      And the service is READY
      And a strategy watches AAPL
      When a strategy wants to buy 1 AAPL at 999
      Then it is refused by collar_percent
      And the gateway has seen 0 orders

  Rule: How often

    Scenario: The same order twice in a moment
      Given the limit duplicate_window_s is 1
      And the service is READY
      When a strategy wants to buy 1 AAPL at 100
      And a strategy wants to buy 1 AAPL at 100
      Then it is refused by duplicate_window_s
      And the gateway has seen 1 order

    Scenario: Too many orders in a minute
      Given the limit max_account_orders_per_minute is 2
      And the service is READY
      When a strategy wants to buy 1 AAPL at 100
      And a strategy wants to buy 2 AAPL at 100
      And a strategy wants to buy 3 AAPL at 100
      Then it is refused by max_account_orders_per_minute
      And the gateway has seen 2 orders

  Rule: When

    Scenario: Outside the hours that the contract itself tells
      Given a market that keeps real hours, and is closed
      And trading hours are kept
      And the service is READY
      And AAPL has been qualified
      When a strategy wants to buy 1 AAPL at 100
      Then it is refused by trading_hours
      And the refusal names when the market opens

    Scenario: A minute before the gateway restarts
      Given the gateway is going to restart in a minute
      And the service is READY
      When a strategy wants to buy 1 AAPL at 100
      Then it is refused by restart_window
      And the gateway has seen 0 orders

  Rule: What makes a position smaller passes

    Scenario: After the loss of a day positions can be closed, and nothing else
      Given the limit max_daily_loss is 0.01
      And the service is READY
      And 10 AAPL were bought, and the day shows a loss
      When a strategy wants to buy 1 AAPL at 100
      Then it is refused by max_daily_loss
      When a strategy wants to sell 10 AAPL at 100
      Then 0 AAPL are held

    Scenario Outline: A person stops entries
      Given the service is READY
      And 10 AAPL were bought
      When the operator says "<verb>"
      And a strategy wants to buy 1 AAPL at 100
      Then it is refused by only_reducing
      When a strategy wants to sell 10 AAPL at 100
      Then 0 AAPL are held

      Examples:
        | verb         |
        | stop-entries |
        | halt         |

    Scenario: A halt takes back what works
      Given the service is READY
      When a strategy wants to buy 1 AAPL at 100
      And the operator says "halt"
      Then the gateway holds no open order
      When the operator says "resume"
      And a strategy wants to buy 2 AAPL at 100
      Then the gateway holds an order for 2

    Scenario: A person closes everything
      Given the service is READY
      And 10 AAPL were bought
      When the operator says "flatten"
      Then 0 AAPL are held by the account
      And book and gateway agree

    Scenario: A position that has reached its limit can be made smaller
      Given the limit max_position is 10
      And the service is READY
      And 10 AAPL were bought
      When a strategy wants to buy 1 AAPL at 100
      Then it is refused by max_position
      When a strategy wants to sell 10 AAPL at 100
      Then 0 AAPL are held
