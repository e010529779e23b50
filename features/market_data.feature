Feature: Quotes that can be trusted
  A strategy sees what the market says, and is told whenever that is not to be trusted. Data that is missing, old or
  delayed never prices an order. Lines at Interactive Brokers are few; who has to wait for one is told.

  Rule: A quote is complete and says what it is

    Scenario: A quote of a stock
      Given the service is READY
      When a strategy asks for a quote of AAPL
      Then the quote has a bid, an ask and a last price
      And it has the day's volume, high, low and close
      And it is live, and not a second old
      And the gateway serves 0 market-data lines

    Scenario: Delayed data is shown, and prices no order
      Given a login with delayed market data, and the service content with it
      And the service is READY
      When a strategy asks for a quote of AAPL
      Then the quote has a bid, an ask and a last price
      And it is delayed
      When a strategy begins to watch AAPL
      And 10 seconds pass
      Then the quote of AAPL is unusable, since it is "a quote that is delayed, not live"
      And a market order for AAPL is refused, since it is "a quote that is delayed, not live"
      And the gateway has seen 0 orders

  Rule: Data that cannot be had is said to be so

    Scenario Outline: Data that Interactive Brokers refuses
      Given a login with <permission> market data
      And the service is READY
      When a strategy asks for a quote of <symbol>
      Then it is told <error>, with the code <code>
      When a strategy begins to watch <symbol>
      And 10 minutes pass
      Then it has read once that there are no data of <symbol>, with the code <code>
      And the log has one error, about <symbol>, with the code <code>
      And the quote of <symbol> is unusable, since there is "no quote"
      And the gateway serves 0 market-data lines

      Examples:
        | permission | symbol | error             | code  |
        | live       | NOSUCH | UnknownInstrument | 200   |
        | no         | AAPL   | BrokerRefused     | 354   |
        | delayed    | AAPL   | BrokerRefused     | 10089 |

    Scenario: The user logs in elsewhere
      Given the service is READY
      And a strategy watches AAPL
      When another session of the user takes the market data
      And 5 seconds pass
      Then the quote of AAPL is unusable, since there is "competing live session"
      When the other session ends
      And 2 minutes pass
      Then the quote of AAPL is usable
      And the strategy read the gap, the refusal, the return, and then new quotes of AAPL

  Rule: A line that exists once serves all who want it

    Scenario: Two strategies watch one stock
      Given a second strategy
      And the service is READY
      And a strategy watches AAPL
      When the second strategy begins to watch AAPL
      And 1 second passes
      Then the second strategy has a quote of AAPL
      And the gateway was asked for quotes once
      When the first strategy stops watching AAPL
      And 10 seconds pass
      Then the gateway serves 1 market-data line
      And the second strategy read new quotes of AAPL
      When the second strategy stops watching AAPL
      And 10 seconds pass
      Then the gateway serves 0 market-data lines

    Scenario: More stocks than lines
      Given a login with 2 market-data lines
      And the service is READY
      When a strategy begins to watch EUR.USD, AAPL and MSFT
      And 5 minutes pass
      Then 2 of the 3 have a usable quote
      And it has read once that the third waits for one of 2 lines
      And the log warns once that the third waits for one of 2 lines
      When the strategy stops watching one that has a usable quote
      And 5 seconds pass
      Then the third has a usable quote
      And the gateway serves 2 market-data lines

    Scenario: A question is more urgent than a watch
      Given a login with 1 market-data line
      And the service is READY
      And a strategy watches AAPL
      When the strategy learns that there is no second line
      And a strategy asks for a quote of MSFT
      Then the quote has a bid, an ask and a last price
      When 10 seconds pass
      Then the quote of AAPL is usable
      And the strategy read the gap, that it waits, the return, and then new quotes of AAPL

  Rule: A quote from before an interruption is no quote after it

    Scenario: A data farm is down for ten minutes
      Given the service is READY
      And a strategy watches AAPL
      When the data farm of stocks goes down
      And 1 second passes
      Then the quote of AAPL is unusable, since there is "usfarm is down"
      And a market order for AAPL is refused, since there is "no quote"
      When 10 minutes pass
      Then the quote of AAPL is unusable, since there is "usfarm is down"
      When the data farm of stocks is back
      And 20 seconds pass
      Then the quote of AAPL is usable
      And the strategy read the gap, the return, and then new quotes of AAPL

    Scenario Outline: The stream is interrupted and comes back by itself
      Given the service is READY
      And a strategy watches AAPL
      When <interruption>
      And 2 minutes pass
      Then the quote of AAPL is usable
      And the strategy read the gap, the return, and then new quotes of AAPL
      And the gateway was asked for quotes <times>
      And the gateway serves 1 market-data line

      Examples:
        | interruption                                                   | times |
        | the connection is lost                                         | twice |
        | Interactive Brokers is away for a minute, and the data is kept | once  |
        | Interactive Brokers is away for a minute, and the data is lost | twice |
