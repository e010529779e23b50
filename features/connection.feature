Feature: One dependable connection to Interactive Brokers
  Orders leave on a line that was proven, and on no other. When the line is lost the service comes back by itself,
  and a strategy can see what it has missed. The log says once, and clearly, what is wrong.

  Rule: READY means that everything was verified

    Scenario: The service connects and knows its account
      When the service starts
      Then the service becomes READY within 5 seconds
      And it trades for the account DU1234567
      And the account is worth 1,000,000 USD
      And the gateway has one client, with id 1
      And the log says once that it connected to server version 176 for the account DU…567

    Scenario: The gateway never tells the positions
      Given the service is READY
      And a strategy watches EUR.USD
      And the account has bought 20,000 EUR.USD
      When the connection breaks, and from now on the gateway leaves the question for positions unanswered
      And 10 minutes pass
      Then the service has connected again but has not been READY since
      And its book has shown 20,000 EUR.USD all the time
      And an order is refused, since the link is not READY
      When the gateway answers all questions again
      Then the service becomes READY within 3 minutes
      And book, fills and gateway agree on 20,000 EUR.USD
      And the gateway has seen 1 order

    Scenario: The gateway waits for somebody to log in
      Given a gateway that tells no account
      When the service starts
      And 1 minute passes
      Then the service was never READY
      And the log has one error, NotLoggedIn, which says "sent no account or order id within 20 s: is it logged in?"
      When the gateway answers all questions again
      Then the service becomes READY within 1 minute

    Scenario Outline: The gateway is never asked for more than it bears
      Given the limit of <rate> messages a second
      And the service is READY
      When a strategy watches all stocks and currencies at once
      And 30 seconds pass
      Then a quote of each has arrived
      And in no second did the gateway receive more than <rate> messages

      Examples:
        | rate |
        | 40   |
        | 10   |

  Rule: The service waits for the gateway and comes back by itself

    Scenario: The gateway is not running
      Given the gateway is not running
      When the service starts
      And 2 minutes pass
      Then the service was never READY
      And the log has one error, NobodyListens, which says "nobody listens at 127.0.0.1:7497"
      And the service says so again after 2 seconds, then after longer and longer waits of at most 60 seconds
      When the gateway starts
      Then the service becomes READY within 1 second

    Scenario: The gateway accepts connections and never answers
      Given a gateway that accepts connections and never answers
      When the service starts
      Then the log has no error within 19 seconds
      When 41 seconds pass
      Then the service was never READY
      And the log has one error, GatewayMute, which says "did not answer the handshake within 20 s"
      And the service has given up twice, after 20 seconds each, and tries again
      When the gateway answers new connections again
      Then the service becomes READY within 1 minute

    Scenario: Another program uses our client id
      Given another client of the gateway with id 1
      When the service starts
      And 1 minute passes
      Then the service was never READY
      And the log has one error, ClientIdInUse, which says "client id 1 is in use at 127.0.0.1:7497"
      And the other client was left alone
      When the other client leaves
      Then the service becomes READY within 1 minute
      And the gateway has one client, with id 1

    Scenario: The connection is lost and comes back
      Given the service is READY
      And a strategy watches EUR.USD
      When the gateway is away for 30 seconds
      Then the service becomes READY within 1 minute
      And the link was SYNCING, READY, DOWN, SYNCING, READY, in this order
      And the strategy read the gap, the return, and then new quotes of EUR.USD, none from before the gap
      And the log has one error, LineOver, which says "the gateway closed the connection"

    Scenario: The line goes dead without a word
      Given the service is READY
      And a strategy watches EUR.USD
      When the network swallows everything
      And 20 seconds pass
      Then the link is DOWN
      And the log has one error, GivenUp, which says "dead: no byte for 10 s after a probe"
      When the network works again
      Then the service becomes READY within 1 minute
      And the strategy read the gap, the return, and then new quotes of EUR.USD, none from before the gap

    Scenario: A lost connection is not to be replaced
      Given automatic reconnection is off
      And the service is READY
      When the connection breaks
      Then the service ends by itself with exit code 1
      And the link was SYNCING, READY, DOWN, in this order
      And the log has one error, LineOver, which says "the gateway closed the connection"

  Rule: Without Interactive Brokers behind the gateway no order leaves

    Scenario Outline: The gateway loses Interactive Brokers for a minute
      Given the service is READY
      And a strategy watches EUR.USD
      When the gateway loses Interactive Brokers
      And 60 seconds pass
      Then the link is CUT
      And an order is refused, since the link is not READY
      When Interactive Brokers is back, with market data <data>
      Then the service becomes READY within 5 seconds
      And the link was SYNCING, READY, CUT, SYNCING, READY, in this order
      And the service has connected once
      And the quotes of EUR.USD were asked for <times>
      And the strategy read the gap, the return, and then new quotes of EUR.USD, none from before the gap
      And the gateway has seen 0 orders
      When the trader orders again
      Then the gateway has seen 1 order

      Examples:
        | data | times |
        | kept | once  |
        | lost | twice |

    Scenario: The gateway itself has not reached Interactive Brokers yet
      Given a gateway that is cut off from Interactive Brokers
      When the service starts
      And 1 minute passes
      Then the link is CUT
      And the service was never READY
      When Interactive Brokers is back, with market data lost
      Then the service becomes READY within 5 seconds
      And the service has connected once

  Rule: The account is the one that was meant

    Scenario: Two accounts and none chosen
      Given a login with the accounts DU1234567 and DU7654321
      When the service starts
      Then the service ends by itself with exit code 2
      And the log has one error, AccountProblem, which says "ibkr.account is empty, but this login manages 2 accounts"
      And the service was never READY

    Scenario: Two accounts and one chosen
      Given a login with the accounts DU1234567 and DU7654321
      And the account DU7654321 is chosen
      When the service starts
      Then the service becomes READY within 5 seconds
      And it trades for the account DU7654321
      And the log says once that it connected to server version 176 for the account DU…321
      When the trader orders
      Then the order of the gateway is for the account DU7654321

    Scenario: The chosen account does not belong to the login
      Given the account DU7654321 is chosen
      When the service starts
      Then the service ends by itself with exit code 2
      And the log has one error, AccountProblem, which says "ibkr.account is not among the accounts of this login"

    Scenario Outline: Play money and real money are never mixed up
      Given the mode is <mode>
      And a login with the account <account>
      When the service starts
      Then the service ends by itself with exit code 2
      And the log has one error, ModeMismatch, which says "<complaint>"
      And the service was never READY
      And the gateway has seen 0 orders
      And the gateway has no client

      Examples:
        | mode  | account   | complaint                                                          |
        | paper | U1234567  | ibkr.mode is paper, but the gateway is logged in to a live account |
        | live  | DU1234567 | ibkr.mode is live, but the gateway is logged in to a paper account |

  Rule: The service leaves in order

    Scenario: The operator stops the service
      Given the service is READY
      When the operator stops the service
      Then the service has ended with exit code 0
      And the link is DOWN
      And the last word of the journal is that the service stopped
      And the gateway has no client

    Scenario: The operator stops the service while it waits for the gateway
      Given the gateway is not running
      When the service starts
      And 1 minute passes
      And the operator stops the service
      Then the service has ended with exit code 0, at once
      And the last word of the journal is that the service stopped
