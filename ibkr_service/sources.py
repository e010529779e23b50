"""Where settings come from: a file, the environment, the command line; each read into a layer that knows its own name.

A layer is the nested mapping that its source spells out, unchecked. Which keys exist and what they accept is for
`settings.py`; this file knows how a place is spelt in each source, so that an error can name the thing to correct.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ibkr_service.core.errors import ServiceError

DEFAULT_PATH: Final = Path("settings.toml")
ENV_PREFIX: Final = "IBKR_SERVICE_"

Origin = Literal["default", "file", "environment", "option"]
Place = tuple[str | int, ...]  # a table and a key in it; in between, for strategies, the number in the list


class SettingsError(ServiceError):
    """The settings make no sense. The text is one line for the person who wrote them."""


@dataclass(frozen=True)
class Layer:
    """What one source says."""

    origin: Origin
    values: dict[str, Any]
    name: str  # what people call the source: a path, or the word "option"

    def get(self, place: Place) -> object:
        """Return what the source says at `place`. Raises `LookupError` when it is silent."""
        node: Any = self.values
        try:
            for part in place:
                node = node[part]
        except TypeError:  # not a table, or a word where the number in a list is wanted
            raise LookupError(place) from None
        return node

    def where(self, place: Place) -> str:
        """Name the thing to correct."""
        return f"environment variable {variable(place)}" if self.origin == "environment" else self.name


@dataclass(frozen=True)
class Sources:
    """The layers, the one that wins first."""

    layers: tuple[Layer, ...] = ()

    def get(self, place: Place) -> tuple[Layer | None, object]:
        """Return the layer that decides about `place`, and what it says; None twice when it is left to the default."""
        for layer in self.layers:
            try:
                return layer, layer.get(place)
            except LookupError:
                continue
        return None, None

    def origin(self, place: Place) -> Origin:
        """Tell what kind of source decides about `place`."""
        layer, _ = self.get(place)
        return layer.origin if layer else "default"

    def where(self, place: Place) -> str:
        """Name what decides about `place`; for what is missing in a list of tables, the source of the list."""
        layer, _ = self.get(place)
        if layer is None and any(isinstance(part, int) for part in place):
            layer, _ = self.get(place[:1])
        return layer.where(place) if layer else "default"

    def spell(self, place: Place) -> str:
        """Write a place as people do: `ibkr.port`, `strategies[sma].run`, and `strategies[#1].run` without a name."""
        text = ""
        for position, part in enumerate(place):
            if isinstance(part, int):
                _, name = self.get((*place[: position + 1], "name"))
                text += f"[{name if isinstance(name, str) and name.isprintable() else f'#{part + 1}'}]"
            else:
                text += f".{part}" if text else part
        return text


def variable(place: Place) -> str:
    """Spell a place as the environment does."""
    return ENV_PREFIX + "__".join(str(part) for part in place).upper()


def from_file(path: Path | None) -> Layer:
    """Read TOML. `path` None means `settings.toml` in the working directory, which may be missing.

    Raises `SettingsError` for a file that is missing though named, cannot be read or is not TOML.
    """
    name = path or DEFAULT_PATH
    try:
        text = name.read_text(encoding="utf-8")
    except FileNotFoundError:
        if path is None:
            return Layer("file", {}, str(name))
        raise SettingsError(f"{name}: there is no such file") from None
    except (OSError, UnicodeError) as exc:
        raise SettingsError(f"{name}: cannot be read: {exc}") from exc
    try:
        return Layer("file", tomllib.loads(text), str(name))
    except tomllib.TOMLDecodeError as exc:
        end = f"at line {len(text.splitlines())}, end of document"
        raise SettingsError(f"{name}: {str(exc).replace('at end of document', end)}") from None


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Take the variables that begin with `IBKR_SERVICE_`. Raises `SettingsError` for one that sets strategies."""
    values: dict[str, Any] = {}
    for name in sorted(environ):
        if name.upper().startswith(ENV_PREFIX):
            table, _, key = name[len(ENV_PREFIX) :].lower().partition("__")
            if table == "strategies":
                raise SettingsError(f"environment variable {name}: strategies can be set in the file only")
            _put(values, (table, *key.split("__")) if key else (table,), environ[name])
    return Layer("environment", values, "environment")


def from_options(options: Mapping[str, Any]) -> Layer:
    """Take the command line's values by dotted key; None was not given."""
    values: dict[str, Any] = {}
    for dotted, value in options.items():
        if value is not None:
            _put(values, tuple(dotted.split(".")), value)
    return Layer("option", values, "option")


def _put(values: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    """Set `value` in its table, unless the table itself was given a value: then that is the error to report."""
    table: Any = values
    for depth, part in enumerate(place[:-1]):
        if not isinstance(table, dict):
            return
        inner = table.setdefault(part, {})
        if depth and not isinstance(inner, dict):  # a key that was given a value is no table: let that be reported
            inner = table[part] = {}
        table = inner
    if isinstance(table, dict):
        table[place[-1]] = value
