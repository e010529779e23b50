"""Settings: `settings.toml` ← `IBKR_SERVICE_<TABLE>__<KEY>` ← command line, checked before anything starts.

A mistake is found here or nowhere: unknown keys are errors in every source, and each error is one line that names the
key, where the value came from and what is allowed. `settings.toml` explains every key; this file knows types, limits
and defaults only (`settings_types.py` the kinds of values, `settings_risk.py` the limits of orders).

The values stop at `app.py`, which hands them on as plain arguments: pydantic is imported in these files only. Nothing
ambient is read, neither `os.environ` nor a `.env` file; the caller passes the environment in.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ibkr_service.controller import Controller
from ibkr_service.core.notices import KINDS
from ibkr_service.core.operator import OPERATOR
from ibkr_service.log import is_secret, mask_account
from ibkr_service.settings_risk import RestartWindowSettings, RiskSettings, StrategyRisk
from ibkr_service.settings_types import (
    Account,
    Addresses,
    Bytes,
    ClientId,
    Commands,
    Count,
    EntryPoint,
    FilePath,
    FilePathOrNone,
    Host,
    HourlyMax,
    KeepDays,
    Lines,
    Name,
    NightlyReset,
    NoticeKinds,
    Number,
    Port,
    PortOrNone,
    ProbeSeconds,
    Rate,
    Seconds,
    Size,
    Speed,
    Table,
    Zone,
)
from ibkr_service.sources import (
    Layer,
    Origin,
    Place,
    SettingsError,
    Sources,
    from_environment,
    from_file,
    from_options,
    variable,
)

__all__ = ["Origin", "Settings", "SettingsError", "describe", "load_settings"]


# --- tables ----------------------------------------------------------------------------------------------------------


class ControllerSettings(Table):
    """IBC's command server, and what it may be asked for."""

    host: Host = "127.0.0.1"
    port: PortOrNone = 0
    commands: Commands = ("RECONNECTDATA", "RECONNECTACCOUNT")
    timeout_s: Seconds = 10.0

    @property
    def controller(self) -> Controller | None:
        """As the session has it; None without a port."""
        if not self.port:
            return None
        return Controller(self.host, self.port, frozenset(self.commands), self.timeout_s)


class IbkrSettings(Table):
    """The connection to TWS or IB Gateway. Names that end in `_s` are seconds."""

    mode: Literal["simulated", "paper", "live"] = "simulated"
    host: Host = "127.0.0.1"
    port: Port = 7497
    client_id: ClientId = 1
    bind_manual_orders: bool = False
    cli_client_id: ClientId = 90
    account: Account = ""
    read_only: bool = False
    use_ib_insync: bool = True
    connect_timeout_s: Seconds = 20.0
    auto_reconnect: bool = True
    reconnect_delay_min_s: Seconds = 2.0
    reconnect_delay_max_s: Seconds = 60.0
    max_rate_per_s: Rate = 40
    request_timeout_s: Seconds = 30.0
    ack_timeout_s: Seconds = 10.0
    absent_after_s: Seconds = 30.0
    probe_interval_s: ProbeSeconds = 4.0
    probe_timeout_s: Seconds = 10.0
    wedged_timeout_s: Seconds = 30.0
    data_age_limit_s: Seconds = 60.0
    write_buffer_max_bytes: Bytes = 262_144
    reconcile_interval_s: Seconds = 300.0
    timezone_tws: Zone = ""
    market_data_lines: Lines = 100
    market_data_type: Literal["live", "frozen", "delayed", "delayed_frozen"] = "live"
    restart_window: tuple[RestartWindowSettings, ...] = ()
    controller: ControllerSettings = ControllerSettings()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.client_id == 0 and not self.bind_manual_orders:
            raise _disagree("client_id", "client id 0 unasked: it binds manual orders, see bind_manual_orders")
        if self.cli_client_id == self.client_id:
            raise self._one_of("client_id", "cli_client_id", "must not be the same as {other}")
        if self.reconnect_delay_min_s > self.reconnect_delay_max_s:
            raise self._one_of(
                "reconnect_delay_min_s", "reconnect_delay_max_s", "does not fit {other}: min must not be above max"
            )
        if not self.use_ib_insync and self.mode != "simulated":
            raise _disagree("use_ib_insync", f'must be true unless mode is "simulated"; it is "{self.mode}"')
        return self

    def _one_of(self, key: str, other: str, text: str) -> PydanticCustomError:
        """Blame, of two keys that disagree, one that somebody has set."""
        if key not in self.model_fields_set:
            key, other = other, key
        return _disagree(key, f"{getattr(self, key):g} " + text.format(other=f"{other} = {getattr(self, other):g}"))


class SimulatorSettings(Table):
    """The gateway of our own: what its market does."""

    seed: Number = 1
    replay: FilePathOrNone = ""
    speed: Speed = 1.0
    hours: Literal["always", "real"] = "always"
    nightly_reset: NightlyReset = ""


class JournalSettings(Table):
    """Where facts are kept, and how safely. A relative path starts at the working directory."""

    path: FilePath = "var/ibkr_service.sqlite"
    durability: Literal["process", "power"] = "process"
    keep_days: KeepDays = 0


class LogSettings(Table):
    """What is logged, and for whom."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class NotifySettings(Table):
    """Whom to tell when nobody looks; nobody without `urls`."""

    urls: Addresses = ()
    on: NoticeKinds = KINDS
    after_s: Seconds = 60.0
    hourly_max: HourlyMax = 6


class ServiceSettings(Table):
    """The daemon itself: its queues, its end, its watchdog."""

    inbox_max: Size = 10_000
    mailbox_max: Size = 1_000
    shutdown_timeout_s: Seconds = 10.0
    open_orders_at_shutdown: Literal["leave", "cancel"] = "leave"
    hold_limit_s: Seconds = 2.0


class StrategySettings(Table):
    """One strategy: what to run, with which arguments, and what happens when it fails."""

    name: Name
    run: EntryPoint
    params: dict[str, Any] = Field(default_factory=dict)
    risk: StrategyRisk = StrategyRisk()
    restart: Literal["never", "on_failure"] = "never"
    restart_delay_s: Seconds = 1.0
    restart_max: Count = 5


class Settings(BaseSettings):  # noqa: PLW1641  # pydantic makes the hash of a frozen model
    """Everything that can be set. Constructed directly it holds what it is given, and defaults for the rest."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    ibkr: IbkrSettings = IbkrSettings()
    simulator: SimulatorSettings = SimulatorSettings()
    journal: JournalSettings = JournalSettings()
    risk: RiskSettings = RiskSettings()
    log: LogSettings = LogSettings()
    notify: NotifySettings = NotifySettings()
    service: ServiceSettings = ServiceSettings()
    strategies: tuple[StrategySettings, ...] = ()
    _sources: Sources = PrivateAttr(Sources())

    def __eq__(self, other: object) -> bool:  # pydantic makes the hash of a frozen model
        """Equal values are equal settings, wherever they came from."""
        return self.model_dump() == other.model_dump() if isinstance(other, Settings) else NotImplemented

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic-settings calls by keyword
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the layers that `load_settings` passes, or plain arguments; never the process's environment."""
        sources = init_settings().get("sources")
        if not isinstance(sources, Sources):
            return (init_settings,)
        return tuple(_LayerSource(settings_cls, layer) for layer in sources.layers)

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [strategy.name for strategy in self.strategies]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise _disagree(f"strategies.{number}.name", f'two strategies are named "{name}"')
            if name == OPERATOR:
                raise _disagree(f"strategies.{number}.name", f'"{name}" is what the orders of the operator are named')
        return self

    @model_validator(mode="after")
    def _only_tighter(self) -> Self:
        for number, strategy in enumerate(self.strategies):
            for key, own, general in strategy.risk.looser(self.risk):
                place = f"strategies.{number}.risk.{key}"
                raise _disagree(
                    place, f"{_text((key,), own)} is looser than risk.{key} = {_text((key,), general)}: only tighter"
                )
        return self


# --- loading ---------------------------------------------------------------------------------------------------------


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    live_flag: bool = False,
) -> Settings:
    """Read and check the settings.

    Args:
        path: the file. None means `settings.toml` in the working directory, which may be missing.
        environ: the environment, usually `os.environ`; only names with the prefix `IBKR_SERVICE_` are looked at.
        overrides: from the command line, by dotted key (`"ibkr.port"`); a value of None was not given.
        live_flag: whether `--live` was given, which mode "live" needs and no other mode allows.

    Raises:
        SettingsError: with one line that names the key, its source and what is allowed.
    """
    sources = Sources((from_options(overrides or {}), from_environment(environ), from_file(path)))
    try:
        settings = _settings(sources=sources)
    except ValidationError as exc:
        raise SettingsError(_explain(exc, sources)) from None
    settings._sources = sources  # noqa: SLF001  # pydantic lets no constructor set it
    mode = settings.ibkr.mode
    if live_flag != (mode == "live"):
        rule = '--live goes with mode "live" only' if live_flag else "real money needs the option --live as well"
        raise SettingsError(f'ibkr.mode = "{mode}" ({sources.where(("ibkr", "mode"))}): {rule}')
    return settings


def describe(settings: Settings) -> list[tuple[str, str, Origin]]:
    """List every key with its value as text and where it came from; accounts and secrets are masked."""
    sources = settings._sources  # noqa: SLF001  # a friend of the class above
    return [(sources.spell(place), _text(place, value), sources.origin(place)) for place, value in _leaves(settings)]


def _settings(**arguments: Any) -> Settings:  # noqa: ANN401  # "sources" is no field, and mypy checks fields
    return Settings(**arguments)


class _LayerSource(PydanticBaseSettingsSource):
    """A layer in the form in which pydantic-settings merges its sources."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Look up one field. Unused, since a layer is read as a whole; the base class asks for it."""
        del field
        return self._layer.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._layer.values


# --- explaining ------------------------------------------------------------------------------------------------------


def _disagree(place: str, text: str) -> PydanticCustomError:
    """Make the error of a rule between keys; `place` is dotted and starts where the rule's model stands."""
    return PydanticCustomError("disagree", "{text}", {"text": text, "place": place})


def _explain(exc: ValidationError, sources: Sources) -> str:
    """Turn what pydantic found into one line. A misspelt key comes first: the key it was meant for may be missing."""
    found = min(exc.errors(), key=lambda error: error["type"] != "extra_forbidden")
    place = _place(found)
    if found["type"] == "extra_forbidden" and isinstance(found["input"], dict) and sources.origin(place) != "file":
        place = (*place, next(iter(found["input"])))  # a variable or option names a key; only a file has tables alone
    key, where = sources.spell(place), sources.where(place)
    match found["type"]:
        case "extra_forbidden":
            return f"{key} ({where}): there is no such key; {_hint(place, sources)}"
        case "missing":
            return f"{key} ({where}): missing; must be {_allowed(place)}"
        case "disagree":
            return f"{key} ({where}): {found['msg']}"
    return f"{key} = {_text(place, found['input'])} ({where}): must be {_allowed(place)}"


def _place(found: ErrorDetails) -> Place:
    inside = str(found.get("ctx", {}).get("place", ""))
    return (*found["loc"], *(int(part) if part.isdigit() else part for part in inside.split(".") if part))


def _field(place: Place) -> FieldInfo | None:
    """Find what stands at `place` in the model; None for what no field describes."""
    model: Any = Settings
    field: FieldInfo | None = None
    for part in place:
        if isinstance(part, int):
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return None
        # Of a list of tables, the table.
        model = get_args(field.annotation)[0] if get_origin(field.annotation) is tuple else field.annotation
    return None if isinstance(place[-1], int) else field


def _allowed(place: Place) -> str:
    """Say in words what is accepted at `place`."""
    field = _field(place)
    if field is None and len(place) > 1 and (whole := _field(place[:-1])) is not None and whole.description:
        field = whole  # of a list one part is wrong
    kind = field.annotation if field else None
    if field is None or kind is None:
        return "a table"
    if field.description:
        return field.description
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{value}"' for value in get_args(kind))
    if kind is bool:
        return "true or false"
    if kind in (int, float, Decimal):
        return _allowed_number(field, str(place[-1]))
    return f"a list of tables, [[{'.'.join(map(str, place))}]]" if get_origin(kind) is tuple else "a table"


def _allowed_number(field: FieldInfo, key: str) -> str:
    limits: dict[str, object] = {}
    for rule in field.metadata:
        limits |= {name: getattr(rule, name) for name in ("ge", "gt", "le") if hasattr(rule, name)}
    text = "a whole number" if field.annotation is int else "a number"
    if key.endswith("_s") and not key.endswith("_per_s"):
        text += " of seconds"
    if "ge" in limits:
        return f"{text} from {limits['ge']} to {limits['le']}"
    if "gt" in limits:
        text += f" greater than {limits['gt']}"
    return f"{text}, at most {limits['le']}" if "le" in limits else text


def _hint(place: Place, sources: Sources) -> str:
    """Name the nearest key that exists, as its source would write it; failing that, what there is."""
    if any(isinstance(part, int) for part in place):
        kinds: dict[str, tuple[str, type[BaseModel]]] = {
            "strategies": ("a strategy", StrategySettings),
            "restart_window": ("a restart window", RestartWindowSettings),
            "risk": ("a strategy's risk", StrategyRisk),
        }
        what, table = kinds[str(next(part for part in reversed(place[:-1]) if isinstance(part, str)))]
        known = list(table.model_fields)
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        return f"did you mean {near[0]}?" if near else f"{what} has {', '.join(known)}"
    spelt = variable if sources.origin(place) == "environment" else sources.spell
    places = [known for known, _ in _leaves(Settings())]
    if len(place) == 1:
        places += [(table,) for table in Settings.model_fields]
    near = difflib.get_close_matches(spelt(place), map(spelt, places), n=1)
    return f"did you mean {near[0]}?" if near else f"the tables are {', '.join(Settings.model_fields)}"


def _leaves(settings: Settings) -> Iterator[tuple[Place, Any]]:
    for table in Settings.model_fields:
        if table != "strategies":
            yield from _leaves_of((table,), getattr(settings, table))
    for number, strategy in enumerate(settings.strategies):
        for key, value in strategy:
            yield ("strategies", number, key), value


def _leaves_of(place: Place, table: BaseModel) -> Iterator[tuple[Place, Any]]:
    for key, value in table:
        if isinstance(value, BaseModel):
            yield from _leaves_of((*place, key), value)
        else:
            yield (*place, key), value


def _text(place: Place, value: object) -> str:  # noqa: PLR0911 - one row per kind of value
    """Write a value as the file would, on one line; accounts and what sounds secret are masked."""
    match value:
        case _ if value and any(is_secret(str(part)) for part in place):
            return "***"
        case bool() | int() | float() | Decimal():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{key} = {_text((*place, key), inner)}" for key, inner in value.items()) + "}"
        case None:
            return '"none"'
        case BaseModel():
            set_ = {key: inner for key, inner in value if key in value.model_fields_set}
            return _text(place, set_)
        case list() | tuple() | frozenset():
            return "[" + ", ".join(_text(place, inner) for inner in value) + "]"
    text = mask_account(str(value)) if place[-1] == "account" and value else str(value)
    return f'"{text}"'.replace("\n", "\\n")
