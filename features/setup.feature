Feature: Settings that are safe to start with
  Without any settings the service trades play money on a gateway of its own. What is set is taken from the command
  line, else from the environment, else from settings.toml. A mistake is one line that names its place, and nothing has
  begun by then.

  Rule: The defaults are safe

    Scenario: Nothing is set
      When the operator checks the settings
      Then these settings are in effect, each by default:
        | setting                | value       |
        | ibkr.mode              | "simulated" |
        | ibkr.host              | "127.0.0.1" |
        | ibkr.port              | 7497        |
        | ibkr.client_id         | 1           |
        | ibkr.account           | ""          |
        | ibkr.read_only         | false       |
        | ibkr.connect_timeout_s | 20.0        |
        | ibkr.auto_reconnect    | true        |
        | ibkr.max_rate_per_s    | 40          |
      And the exit code is 0
      And no journal was made

    Scenario: The service runs on the defaults
      When the operator runs the service for 30 seconds
      Then the exit code is 0
      And the journal tells of a simulated run, connected as client 1 for the only account, DU1234567
      And the journal was made at var/ibkr_service-simulated.sqlite

    Scenario Outline: No more messages a second than the gateway bears
      Given a settings file with "<rate>" as ibkr.max_rate_per_s
      When the operator checks the settings
      Then the exit code is <code>

      Examples:
        | rate | code |
        | 45   | 0    |
        | 46   | 2    |
        | 0    | 2    |

  Rule: The nearest source wins

    Scenario: A file, the environment and an option disagree
      Given a settings file:
        """
        [ibkr]
        host = "gateway.office"
        port = 4001
        client_id = 7
        """
      And the environment variable IBKR_SERVICE_IBKR__PORT is 4002
      And the environment variable IBKR_SERVICE_IBKR__CLIENT_ID is 8
      When the operator checks the settings with "--client-id 9"
      Then these settings are in effect:
        | setting            | value            | from        |
        | ibkr.host          | "gateway.office" | file        |
        | ibkr.port          | 4002             | environment |
        | ibkr.client_id     | 9                | option      |
        | ibkr.cli_client_id | 90               | default     |

    Scenario: The service runs on settings of its own
      Given a settings file:
        """
        [ibkr]
        client_id = 7
        [journal]
        path = "books/mine.sqlite"
        """
      And the environment variable IBKR_SERVICE_IBKR__CLIENT_ID is 8
      When the operator runs the service for 30 seconds
      Then the exit code is 0
      And the journal tells of a simulated run, connected as client 8 for the only account, DU1234567
      And the journal was made at books/mine-simulated.sqlite

    Scenario: The account is masked wherever settings are shown
      Given a settings file with ""DU7654321"" as ibkr.account
      When the operator checks the settings
      Then these settings are in effect:
        | setting      | value    | from |
        | ibkr.account | "DU…321" | file |
      And the account DU7654321 is shown nowhere

  Rule: A mistake is one line, and nothing has begun

    Scenario: A misspelt key in the file
      Given a settings file with "4002" as ibkr.prot
      When the operator runs the service
      Then it is refused in one line that says "ibkr.prot"
      And the line says "there is no such key; did you mean ibkr.port?"
      And no journal was made

    Scenario: A misspelt environment variable
      Given the environment variable IBKR_SERVICE_IBKR__PROT is 4002
      When the operator runs the service
      Then it is refused in one line that says "environment variable IBKR_SERVICE_IBKR__PROT"
      And the line says "there is no such key; did you mean IBKR_SERVICE_IBKR__PORT?"
      And no journal was made

    Scenario Outline: Options that would be dangerous, or make no sense
      When the operator runs the service with "<options>"
      Then it is refused in one line that says "<complaint>"
      And no journal was made

      Examples: Real money must be asked for twice
        | options     | complaint                                                               |
        | --mode live | ibkr.mode = "live" (option): real money needs the option --live as well |
        | --live      | ibkr.mode = "simulated" (default): --live goes with mode "live" only    |

      Examples: Numbers out of range
        | options       | complaint                                                            |
        | --port 0      | ibkr.port = 0 (option): must be a whole number from 1 to 65535       |
        | --port 65536  | ibkr.port = 65536 (option): must be a whole number from 1 to 65535   |
        | --client-id 0 | ibkr.client_id (option): client id 0 unasked: it binds manual orders |

      Examples: What does not exist
        | options                 | complaint                                   |
        | --settings nowhere.toml | nowhere.toml: there is no such file         |
        | --mode demo             | must be one of "simulated", "paper", "live" |

    Scenario: Client id 0 is allowed when it was asked for
      Given a settings file:
        """
        [ibkr]
        client_id = 0
        bind_manual_orders = true
        """
      When the operator runs the service for 30 seconds
      Then the exit code is 0
      And the journal tells of a simulated run, connected as client 0 for the only account, DU1234567

    Scenario Outline: A strategy that is not there
      Given a settings file with a strategy that runs "<run>"
      When the operator <does>
      Then it is refused in one line that says "<complaint>"
      And no journal was made

      Examples:
        | does                | run                            | complaint                                  |
        | runs the service    | no.such.module:strategy        | 'no.such.module:strategy' cannot be loaded |
        | runs the service    | ibkr_service.story:wach        | 'ibkr_service.story:wach' cannot be loaded |
        | runs the service    | ibkr_service.settings:describe | must be an async def function              |
        | runs the service    | no_such_name                   | 'no_such_name' is not known                |
        | checks the settings | no_such_name                   | 'no_such_name' is not known                |

    Scenario Outline: A strategy whose parameters do not fit
      Given a settings file with sma_cross and the parameters <parameters>
      When the operator <does>
      Then it is refused in one line that says "strategies.mine.params"
      And the line says "<complaint>"
      And no journal was made

      Examples:
        | does                | parameters                                 | complaint                         |
        | runs the service    | instrument = "EUR.USD", quantity = 9, fs=3 | has no key 'fs'                   |
        | checks the settings | instrument = "EUR.USD", quantity = 9, fs=3 | has no key 'fs'                   |
        | runs the service    | instrument = "EUR.USD", quantity = 0       | quantity must be above 0          |
        | runs the service    | instrument = "EUR.USD"                     | missing required field `quantity` |
