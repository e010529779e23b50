Feature: The service leaves in order
  Stopping takes seconds and loses nothing: strategies end, orders stay or are cancelled as it was decided, the journal has
  the last word.

  Scenario: Orders stay by default
    Given the service is READY
    And a strategy buys 10 AAPL at most 20 below the market
    When the operator stops the service
    Then the service has ended with exit code 0
    And the gateway holds an order for 10
    And the last fact of the journal is that the service stopped
    And no incident was told

  Scenario: Orders are cancelled, if that was decided
    Given open orders are cancelled at the end
    And the service is READY
    And a strategy buys 10 AAPL at most 20 below the market
    When the operator stops the service
    Then the service has ended with exit code 0
    And the gateway holds no open order
    And the last fact of the journal is that the service stopped

  Scenario: No order leaves while the service is leaving
    Given a strategy that buys 10 AAPL when it is told to end
    And the service is READY
    And it knows the price of AAPL
    When the operator stops the service
    Then the service has ended with exit code 0
    And it was refused because the service is shutting down
    And the gateway has seen 0 orders

  Scenario: A strategy that does not want to end
    Given a strategy that swallows its cancellation
    And the service is READY
    When the operator stops the service
    Then the service has ended within 30 seconds

  Scenario: An order that works over a stop is known after the next start
    Given the service is READY
    And a strategy buys 10 AAPL at most 20 below the market
    When the operator stops the service
    And the order fills while nobody is there
    And the service is started again
    Then the service becomes READY within 1 minute
    And the order is FILLED
    And it was filled once, and the fill was recovered
    And book and gateway agree
