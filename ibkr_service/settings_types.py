"""The kinds of values that settings have, and what is said of one that does not fit."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ibkr_service.core.ladder import Command
from ibkr_service.core.notices import KINDS, Kind


def not_bool(value: object) -> object:
    """Refuse true and false where a number is wanted: Python would take them for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("not_bool", "true and false are no numbers")
    return value


def _none(value: object) -> object:
    """Read the word for no limit: TOML has no null, and 0 would be one."""
    return None if value == "none" else value


def _split(value: object) -> object:
    """Read a list from one text, as a variable of the environment has it."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _addresses(value: object) -> object:
    """As `_split`, at spaces: an address has none, but may have commas."""
    return value.split() if isinstance(value, str) else value


def _zone(name: str) -> str:
    if name:
        try:
            ZoneInfo(name)
        except (LookupError, ValueError, OSError) as exc:
            raise PydanticCustomError("zone", "no such time zone") from exc
    return name


Number = Annotated[int, BeforeValidator(not_bool)]
Real = Annotated[float, BeforeValidator(not_bool), Field(allow_inf_nan=False)]
Seconds = Annotated[Real, Field(gt=0, le=86_400)]
ProbeSeconds = Annotated[Real, Field(ge=2, le=3600)]  # TWS drops the second of two questions within a second
Amount = Annotated[Decimal, BeforeValidator(not_bool), Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[Decimal, BeforeValidator(not_bool), Field(ge=0, le=1_000_000, allow_inf_nan=False)]
AmountOrNone = Annotated[Amount | None, BeforeValidator(_none), Field(description='a number greater than 0, or "none"')]
PercentOrNone = Annotated[
    Annotated[Decimal, BeforeValidator(not_bool), Field(gt=0, le=100, allow_inf_nan=False)] | None,
    BeforeValidator(_none),
    Field(description='a number of percent above 0, at most 100, or "none"'),
]
Port = Annotated[Number, Field(ge=1, le=65_535)]
ClientId = Annotated[Number, Field(ge=0, le=2**31 - 1)]
Rate = Annotated[Number, Field(ge=1, le=45)]  # TWS ends connections that send more than 50 a second
OpenOrders = Annotated[Number, Field(ge=1, le=20)]  # IB refuses more
Lines = Annotated[Number, Field(ge=1, le=10_000)]  # what the account's market data subscription allows at once
Symbols = Annotated[
    tuple[str, ...], BeforeValidator(_split), Field(description='a list of symbols such as ["AAPL", "EUR.USD"]')
]
Addresses = Annotated[
    tuple[str, ...],
    BeforeValidator(_addresses),
    Field(description="a list of addresses, https://appriseit.com/services/"),
]
NoticeKinds = Annotated[
    tuple[Kind, ...],
    BeforeValidator(_split),
    Field(description="a list of " + ", ".join(f'"{kind}"' for kind in KINDS)),
]
HourlyMax = Annotated[Number, Field(ge=1, le=1_000)]
Count = Annotated[Number, Field(ge=0, le=1_000_000)]
CountOrNone = Annotated[
    Count | None, BeforeValidator(_none), Field(description='a whole number from 0 to 1000000, or "none"')
]
KeepDays = Annotated[Number, Field(ge=0, le=36_500)]  # 0: for ever
Bytes = Annotated[Number, Field(ge=4_096, le=2**30)]
PortOrNone = Annotated[Number, Field(ge=0, le=65_535)]  # 0: there is none
Size = Annotated[Number, Field(ge=10, le=10_000_000)]  # of a queue
ShortSeconds = Annotated[Real, Field(ge=0, le=3600)]
Speed = Annotated[Real, Field(gt=0, le=1_000_000)]

Host = Annotated[str, Field(pattern=r"^\S+$", description="a host name or an address")]
Account = Annotated[
    str, Field(pattern=r"^[A-Z0-9]*$", description='an account such as "DU1234567", or "" for the only one')
]
Zone = Annotated[str, AfterValidator(_zone), Field(description='a time zone such as "US/Eastern", or ""')]
NamedZone = Annotated[
    str, AfterValidator(_zone), Field(min_length=1, description='a time zone such as "America/New_York"')
]
FilePath = Annotated[str, Field(min_length=1, description="the path of a file")]
FilePathOrNone = Annotated[str, Field(description='the path of a file, or ""')]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$", description="a letter, then up to 31 letters, digits, - or _"),
]
EntryPoint = Annotated[
    str,
    Field(
        pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_][\w.]*|[A-Za-z_][\w.-]*)$",
        description='"module:function" or the name of an entry point',
    ),
]


Commands = Annotated[
    tuple[Command, ...],
    BeforeValidator(_split),
    Field(description='a list of "RECONNECTDATA", "RECONNECTACCOUNT" and "RESTART"'),
]
TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description='a time such as "23:45"')]
NightlyReset = Annotated[
    str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$", description='a time such as "23:45", or ""')
]


class Table(BaseModel):
    """A table of the file: frozen, and without room for keys that do not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid")
