Feature: The service comes back, and nothing is lost
  The gateway restarts every night, the network breaks, Interactive Brokers is away for a minute. Whatever happens, the
  service comes back by itself, knows what became of its orders, and tells one incident with what it cost.

  Rule: An outage is one incident, whatever noise it makes

    Scenario: The gateway's nightly restart
      Given the service is READY
      And a strategy watches AAPL
      And a strategy buys 10 AAPL at most 20 below the market
      When the gateway restarts, and is away for 3 minutes
      Then the service becomes READY within 2 minutes
      And 1 minute passes afterwards
      And 1 incident is over, and none is open
      And its cause is that "the gateway closed the connection"
      And the stream of AAPL had a gap of 3 to 5 minutes
      And the order is WORKING
      And the gateway holds an order for 10
      And the gateway has seen 1 order

    Scenario: A line that is dead without a word
      Given the service is READY
      And a strategy watches AAPL
      When the network says nothing any more for 1 minute
      Then the service becomes READY within 2 minutes
      And 1 minute passes afterwards
      And 1 incident is over, and none is open
      And it was detected within 15 seconds by the default settings
      And book and gateway agree

    Scenario: Interactive Brokers is away behind the gateway, and its subscriptions are gone
      Given the service is READY
      And a strategy watches AAPL
      When Interactive Brokers is away for 40 seconds, and forgets the subscriptions
      Then the service becomes READY within 1 minute
      And 1 minute passes afterwards
      And 1 incident is over, and none is open
      And new quotes of AAPL arrive

    Scenario: A data farm is down
      Given the service is READY
      And a strategy watches AAPL
      When the data farm is down for 30 seconds
      And 1 minute passes
      Then 1 incident is over, and none is open
      And the link is READY

  Rule: What the broker did meanwhile is known afterwards

    Scenario: An order fills while the line is down
      Given the service is READY
      And a strategy buys 10 AAPL at most 20 below the market
      When the line breaks, the order fills, and the line is back after 30 seconds
      Then the service becomes READY within 2 minutes
      And the order is FILLED
      And it was filled once, and the fill was recovered
      And 10 AAPL are held
      And book and gateway agree

    Scenario: A cancel that was wished for while the line was down
      Given the service is READY
      And a strategy buys 10 AAPL at most 20 below the market
      When the line breaks, the strategy cancels, and the line is back after 30 seconds
      Then the service becomes READY within 2 minutes
      And 10 seconds pass afterwards
      And the order is CANCELLED
      And the gateway holds no open order

    Scenario: The gateway hands out order ids that were used before
      Given the service is READY
      And a strategy buys 10 AAPL at most 20 below the market
      When the gateway restarts with order ids that are 5 too low
      Then the service becomes READY within 2 minutes
      When a strategy buys 7 AAPL at most 20 below the market, too
      Then the gateway holds both orders, for 10 and for 7

    Scenario: An order about which nobody says a word
      Given the service is READY
      And the gateway swallows the next order
      And a strategy buys 10 AAPL at most 20 below the market
      When 20 seconds pass
      Then the order is UNKNOWN
      And the log has an error that says so
      And the gateway has seen 1 order

  Rule: A process that was killed goes on where it was

    Scenario: kill -9 while an order works
      Given the service is READY
      And a strategy buys 10 AAPL at most 20 below the market
      When the process is killed and started again
      Then the service becomes READY within 1 minute
      And the order is WORKING
      And 1 incident is over, and none is open
      And its cause is that "the service ended without a word"
      And the gateway has seen 1 order
