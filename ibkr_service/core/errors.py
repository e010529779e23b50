"""The exception tree. Everything the service raises on purpose is one of these.

::

    ServiceError
     ├── GatewayError              the gateway or the line to it
     │    ├── GatewayUnreachable        the handshake was never answered, or broken off
     │    │    ├── GatewayMute               … connections are accepted, and the handshake is not answered
     │    │    └── NobodyListens            … or nobody listens at all
     │    ├── ClientIdInUse             326: another client holds our id (it is retried with the same id)
     │    ├── NotLoggedIn               handshake done, but no account or order id: a login or 2FA is pending
     │    ├── VersionUnsupported        the gateway speaks a protocol version we cannot decode
     │    ├── SyncFailed                a part of the account's state was not received: never taken for "empty"
     │    └── NotReady                  the link is not READY, so this cannot be asked now
     ├── FatalError                retrying cannot help: the daemon stops with exit code 2
     │    ├── ModeMismatch              the accounts at the port contradict the trading mode
     │    ├── StrategyUnusable          a strategy of the settings cannot be found, or its parameters do not fit
     │    ├── Unfit                     the machine lacks what the service needs (a time zone database …)
     │    ├── AlreadyRunning            another daemon of this machine uses the same client id
     │    ├── RecordingUnusable         a session cannot be recorded to this file, or it is no recording
     │    └── AccountProblem            several accounts and none chosen, or the chosen one is not there
     ├── RequestError              one request, answered badly or not at all
     │    ├── BrokerRefused             the broker's own code and words
     │    ├── RequestTimeout            no answer within the limit
     │    ├── UnknownInstrument         no contract, or more than one, fits the description
     │    ├── InvalidRequest            it makes no sense (an unknown bar size, a range that ends before it begins …)
     │    └── UnknownAccount            not an account of this login
     ├── OrderError                an intent that did not become an order
     │    ├── InvalidIntent             it makes no sense (non-finite price, zero quantity …)
     │    ├── Refused                   a risk limit, or the link, says no
     │    ├── Paced                     no sending allowance left this second; nothing was queued
     │    ├── KeyReused                 the key belongs to another intent
     │    └── UnknownOrder              no such order reference
     ├── ControllerFailed          the gateway's controller did not do as it was asked
     ├── JournalError              the disk said no: no new or modified order leaves
     └── DeskClosed                this strategy was stopped; its desk no longer works

`SettingsError` lives in `settings.py`: a service that is running has none.
"""

from __future__ import annotations


class ServiceError(Exception):
    """Base of everything that the service raises on purpose."""


class GatewayError(ServiceError):
    """The gateway, or the line to it, is not as it must be."""


class GatewayUnreachable(GatewayError):
    """Nobody listens at host and port, or the handshake was not answered in time."""


class NobodyListens(GatewayUnreachable):
    """The port refuses connections, or the machine behind it cannot be reached: there is no gateway to be annoyed."""


class GatewayMute(GatewayUnreachable):
    """Something listens and accepts connections, but does not answer the handshake: a gateway that is stuck."""


class ClientIdInUse(GatewayError):
    """TWS error 326. The gateway frees an id late (ib_insync #376).

    Retried with the same id, since only it owns our orders.
    """


class NotLoggedIn(GatewayError):
    """The socket works, but the gateway sends no account or no order id: a login or a second factor is pending."""


class VersionUnsupported(GatewayError):
    """The gateway chose a server version outside what the decoder understands."""


class SyncFailed(GatewayError):
    """A part of the state was not received.

    Attributes:
        missing: what was not received and why, by request name (`positions`, `open orders` …).
    """

    def __init__(self, missing: dict[str, str]) -> None:
        self.missing = missing
        super().__init__("not synchronised: " + "; ".join(f"{name}: {why}" for name, why in missing.items()))


class NotReady(GatewayError):
    """The link is not READY; new and modified orders are refused, never parked."""


class FatalError(ServiceError):
    """Retrying cannot help; the daemon stops with exit code 2."""


class ModeMismatch(FatalError):
    """The accounts behind the port contradict the trading mode."""


class AccountProblem(FatalError):
    """Several accounts and none chosen, or the chosen one is not managed by this login."""


class AlreadyRunning(FatalError):
    """Another daemon of this machine uses the same client id, at the same gateway or for the same account."""


class RecordingUnusable(FatalError):
    """A session cannot be recorded to this file, or the file is no recording that this version can read."""


class StrategyUnusable(FatalError):
    """A strategy named in the settings cannot be loaded, or its parameters do not fit."""


class Unfit(FatalError):
    """The machine or the installation lacks something without which facts would be lost."""


class RequestError(ServiceError):
    """One request that failed."""


class BrokerRefused(RequestError):
    """The broker answered with an error.

    Attributes:
        code: TWS message code. text: the broker's words.
    """

    def __init__(self, code: int, text: str, about: str = "") -> None:
        self.code = code
        self.text = text
        self.about = about
        super().__init__(f"{about + ': ' if about else ''}{text} (code {code})")


class RequestTimeout(RequestError):
    """No answer within the limit."""

    def __init__(self, what: str, timeout_s: float) -> None:
        self.what = what
        self.timeout_s = timeout_s
        super().__init__(f"{what}: no answer within {timeout_s:g} s")


class NoLineFree(RequestError):
    """All market-data lines were taken by what is no less urgent.

    Attributes:
        lines: how many there are.
    """

    def __init__(self, what: str, lines: int, timeout_s: float) -> None:
        self.what = what
        self.lines = lines
        self.timeout_s = timeout_s
        super().__init__(f"{what}: none of the {lines} market-data lines became free within {timeout_s:g} s")


class UnknownInstrument(RequestError):
    """The description fits no contract, or more than one."""


class InvalidRequest(RequestError):
    """The request makes no sense in itself; nothing was asked."""


class UnknownAccount(RequestError):
    """The account is not one of this login's."""


class OrderError(ServiceError):
    """An intent that did not become an order. Nothing was sent."""


class InvalidIntent(OrderError):
    """The intent makes no sense in itself."""


class Refused(OrderError):
    """A limit says no.

    Attributes:
        limit: which (`max_quantity`, `link` …). allowed, asked: its value and what the intent wanted, as text.
    """

    def __init__(self, limit: str, allowed: str, asked: str) -> None:
        self.limit = limit
        self.allowed = allowed
        self.asked = asked
        super().__init__(f"refused by {limit}: allowed {allowed}, asked {asked}")


class Paced(OrderError):
    """No sending allowance is left in this second. Orders never queue: decide again with a fresh quote."""


class KeyReused(OrderError):
    """This key already stands for a different intent."""


class UnknownOrder(OrderError):
    """No order has this reference."""


class ControllerFailed(ServiceError):
    """The gateway's controller (IBC's command server) cannot be reached, gave no answer, or said ERROR."""


class JournalError(ServiceError):
    """The journal cannot be used or written. The text says what was tried and how to recover."""


class DeskClosed(ServiceError):
    """The strategy of this desk was stopped; nothing can be asked or sent any more."""
