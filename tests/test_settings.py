"""Settings: what wins, what is allowed, and that every mistake is one line which names its place."""

from __future__ import annotations

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.settings import (
    ControllerSettings,
    IbkrSettings,
    Settings,
    SettingsError,
    StrategySettings,
    describe,
    load_settings,
)
from ibkr_service.settings_risk import StrategyRisk

SHIPPED = Path(__file__).parents[1] / "settings.toml"


@pytest.fixture
def load(tmp_path):
    """Load from a text instead of a file."""

    def load(text="", *, environ=None, overrides=None, live_flag=False):
        path = tmp_path / "settings.toml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path, environ=environ or {}, overrides=overrides, live_flag=live_flag)

    return load


@pytest.fixture
def complaint(load):
    """Return the one line with which loading fails."""

    def complaint(text="", **rest):
        with pytest.raises(SettingsError) as caught:
            load(text, **rest)
        line = str(caught.value)
        assert len(line.splitlines()) == 1
        return line

    return complaint


# --- the file that ships ---------------------------------------------------------------------------------------------


def test_the_shipped_file_equals_the_defaults():
    """Without settings.toml nothing changes."""
    assert load_settings(SHIPPED, environ={}) == Settings()


def test_the_shipped_file_has_every_key():
    """Whoever looks for a key finds it there, and nothing else."""
    tables = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    defaults = Settings().model_dump(exclude={"strategies"})
    assert {name: set(table) for name, table in tables.items()} == {name: set(keys) for name, keys in defaults.items()}


def test_the_example_strategy_in_the_shipped_file_works(load):
    """The commented example becomes valid by removing the leading #, and shows every key of a strategy."""
    text = re.sub(r"^#(?! )", "", SHIPPED.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (strategy,) = load(text).strategies
    assert strategy == StrategySettings(
        name="sma",
        run="sma_cross",
        params={"symbol": "AAPL"},
        risk=StrategyRisk(max_quantity=Decimal(100), symbols=("AAPL",)),
    )
    assert set(tomllib.loads(text)["strategies"][0]) == set(StrategySettings.model_fields)


def test_the_controller_is_off_and_its_restart_has_to_be_allowed(load):
    """A table in a table, from each source; no port, no controller."""
    assert load().ibkr.controller.controller is None
    environ = {"IBKR_SERVICE_IBKR__CONTROLLER__PORT": "7462", "IBKR_SERVICE_IBKR__CONTROLLER__COMMANDS": "RESTART"}
    found = load(environ=environ).ibkr.controller.controller
    assert (found.host, found.port, found.commands) == ("127.0.0.1", 7462, {"RESTART"})
    found = load("[ibkr.controller]\nport = 7462").ibkr.controller.controller
    assert "RESTART" not in found.commands
    rows = {key: (value, origin) for key, value, origin in describe(load(environ=environ))}
    assert rows["ibkr.controller.port"] == ("7462", "environment")


@pytest.mark.parametrize(
    ("text", "environ", "says"),
    [
        ("[ibkr.controller]\nprot = 7462", {}, "ibkr.controller.prot"),
        ('[ibkr.controller]\ncommands = ["STOP"]', {}, "RECONNECTDATA"),
        ("", {"IBKR_SERVICE_IBKR__CONTROLLER__PROT": "1"}, "IBKR_SERVICE_IBKR__CONTROLLER__PROT"),
        ("", {"IBKR_SERVICE_IBKR__CONTROLLER__PORT": "x"}, "ibkr.controller.port"),
        ("", {"IBKR_SERVICE_IBKR__PORT": "1", "IBKR_SERVICE_IBKR__PORT__X": "1"}, "ibkr.port"),
    ],
)
def test_a_mistake_in_the_controllers_table_is_one_line(complaint, text, environ, says):
    """As anywhere else, with the key and what is allowed or meant."""
    assert says in complaint(text, environ=environ)


# --- precedence ------------------------------------------------------------------------------------------------------


def test_the_command_line_beats_the_environment_beats_the_file(load):
    """Each key is decided by the nearest source that mentions it, and describe() says which."""
    settings = load(
        '[ibkr]\nport = 1001\nclient_id = 11\nhost = "gateway"\n',
        environ={"IBKR_SERVICE_IBKR__PORT": "1002", "IBKR_SERVICE_IBKR__CLIENT_ID": "12", "PATH": "/bin"},
        overrides={"ibkr.port": 1003, "ibkr.host": None},
    )
    assert (settings.ibkr.port, settings.ibkr.client_id, settings.ibkr.host) == (1003, 12, "gateway")
    origins = {key: origin for key, _, origin in describe(settings)}
    keys = ("ibkr.port", "ibkr.client_id", "ibkr.host", "ibkr.mode")
    assert [origins[key] for key in keys] == ["option", "environment", "file", "default"]


def test_the_environment_speaks_every_type(load):
    """Text from the environment becomes numbers, decimals, truth and words."""
    settings = load(
        environ={
            "IBKR_SERVICE_IBKR__READ_ONLY": "true",
            "IBKR_SERVICE_IBKR__PROBE_INTERVAL_S": "2.5",
            "IBKR_SERVICE_RISK__MAX_NOTIONAL": "1000.10",
            "ibkr_service_log__level": "debug",
        }
    )
    assert settings.ibkr.read_only is True
    assert settings.ibkr.probe_interval_s == 2.5
    assert settings.risk.max_notional == Decimal("1000.10")
    assert settings.log.level == "debug"


def test_the_process_environment_is_not_read(monkeypatch):
    """Only the mapping that is passed counts, also when Settings is constructed directly."""
    monkeypatch.setenv("IBKR_SERVICE_IBKR__PORT", "1")
    monkeypatch.setenv("IBKR", '{"port": 1}')
    assert load_settings(SHIPPED, environ={}).ibkr.port == 7497
    assert Settings().ibkr.port == 7497


def test_direct_construction():
    """A test or a script makes settings without any source."""
    settings = Settings(ibkr=IbkrSettings(port=4002))
    assert settings.ibkr.port == 4002
    assert settings != Settings()
    assert settings != 4002
    assert {origin for _, _, origin in describe(settings)} == {"default"}


def test_settings_are_frozen():
    """Nobody changes a setting while the service runs."""
    settings = Settings()
    with pytest.raises(pydantic.ValidationError):
        settings.ibkr.port = 1
    with pytest.raises(pydantic.ValidationError):
        settings.ibkr = IbkrSettings()


# --- files -----------------------------------------------------------------------------------------------------------


def test_no_file_in_the_working_directory_means_defaults(tmp_path, monkeypatch):
    """Only a file that was asked for by name must exist."""
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={}) == Settings()
    (tmp_path / "settings.toml").write_text("[ibkr]\nport = 4002\n")
    assert load_settings(environ={}).ibkr.port == 4002


def test_a_named_file_must_exist(tmp_path):
    """A typing error in a path does not become a run with defaults."""
    with pytest.raises(SettingsError, match=r"other\.toml: there is no such file"):
        load_settings(tmp_path / "other.toml", environ={})


def test_a_file_that_cannot_be_read(tmp_path):
    """A directory, or bytes that are no text."""
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path, environ={})
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(SettingsError, match=r"latin\.toml: cannot be read"):
        load_settings(tmp_path / "latin.toml", environ={})


@pytest.mark.parametrize(
    ("text", "line"),
    [("[ibkr]\nport 7497\n", 2), ("[ibkr]\n\nport =", 3), ('x = """\n\n', 2), ("[ibkr]\nport=1\nport=2\n", 3)],
)
def test_broken_toml_is_one_line_with_its_number(complaint, text, line):
    """Where the file cannot be parsed the line is named, at its end too."""
    assert f"at line {line}," in complaint(text)


# --- what is allowed -------------------------------------------------------------------------------------------------


@given(st.integers())
def test_ports(port):
    """1 to 65535 and nothing else; the error names key, value, source and range."""
    if 1 <= port <= 65_535:
        assert load_settings(SHIPPED, environ={}, overrides={"ibkr.port": port}).ibkr.port == port
    else:
        with pytest.raises(SettingsError) as caught:
            load_settings(SHIPPED, environ={}, overrides={"ibkr.port": port})
        assert str(caught.value) == f"ibkr.port = {port} (option): must be a whole number from 1 to 65535"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_probe_interval(interval_s):
    """Below two seconds TWS drops every second question; infinity and NaN are no intervals."""
    overrides = {"ibkr.probe_interval_s": interval_s}
    if 2 <= interval_s <= 3600:
        assert load_settings(SHIPPED, environ={}, overrides=overrides).ibkr.probe_interval_s == interval_s
    else:
        with pytest.raises(SettingsError, match="must be a number of seconds from 2 to 3600"):
            load_settings(SHIPPED, environ={}, overrides=overrides)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_is_a_setting_or_one_line(text):
    """Whatever stands in the environment, the answer is a value or one line."""
    try:
        settings = load_settings(SHIPPED, environ={"IBKR_SERVICE_IBKR__HOST": text, "IBKR_SERVICE_LOG__LEVEL": text})
    except SettingsError as exc:
        assert "\n" not in str(exc)  # noqa: PT017  # raising is only one of the two ways
    else:
        assert settings.ibkr.host == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[ibkr]\nmode = "demo"', 'ibkr.mode = "demo" (FILE): must be one of "simulated", "paper", "live"'),
        ("[ibkr]\nport = true", "ibkr.port = true (FILE): must be a whole number from 1 to 65535"),
        ("[ibkr]\nport = 1.5", "ibkr.port = 1.5 (FILE): must be a whole number from 1 to 65535"),
        ('[ibkr]\nread_only = "maybe"', 'ibkr.read_only = "maybe" (FILE): must be true or false'),
        ("[ibkr]\nmax_rate_per_s = 46", "ibkr.max_rate_per_s = 46 (FILE): must be a whole number from 1 to 45"),
        ("[ibkr]\nhost = 5", "ibkr.host = 5 (FILE): must be a host name or an address"),
        ('[ibkr]\nhost = ""', 'ibkr.host = "" (FILE): must be a host name or an address'),
        ('[ibkr]\nhost = "a\\nb"', 'ibkr.host = "a\\nb" (FILE): must be a host name or an address'),
        ("[ibkr]\nclient_id = -1", "ibkr.client_id = -1 (FILE): must be a whole number from 0 to 2147483647"),
        (
            '[ibkr]\ntimezone_tws = "Mars"',
            'ibkr.timezone_tws = "Mars" (FILE): must be a time zone such as "US/Eastern", or ""',
        ),
        ("[simulator]\nspeed = 0", "simulator.speed = 0 (FILE): must be a number greater than 0, at most 1000000"),
        ('[journal]\npath = ""', 'journal.path = "" (FILE): must be the path of a file'),
        ("[risk]\nmax_quantity = 0", "risk.max_quantity = 0 (FILE): must be a number greater than 0"),
        ("[risk]\nmax_quantity = nan", "risk.max_quantity = nan (FILE): must be a number greater than 0"),
        ("ibkr = 1", "ibkr = 1 (FILE): must be a table"),
        ('[strategies]\nname = "a"', 'strategies = {name = "a"} (FILE): must be a list of tables, [[strategies]]'),
        ("strategies = [1]", "strategies[#1] = 1 (FILE): must be a table"),
        (
            '[[strategies]]\nname = "a"',
            'strategies[a].run (FILE): missing; must be "module:function" or the name of an entry point',
        ),
        (
            '[[strategies]]\nrun = "x"',
            "strategies[#1].name (FILE): missing; must be a letter, then up to 31 letters, digits, - or _",
        ),
        (
            '[[strategies]]\nname = "a b"\nrun = "x"',
            'strategies[a b].name = "a b" (FILE): must be a letter, then up to 31 letters, digits, - or _',
        ),
        ('[[strategies]]\nname = "a"\nrun = "x"\nparams = 3', "strategies[a].params = 3 (FILE): must be a table"),
    ],
)
def test_what_is_allowed_is_said(complaint, tmp_path, text, expected):
    """Key, value, source, and what would be right."""
    assert complaint(text) == expected.replace("FILE", str(tmp_path / "settings.toml"))


@pytest.mark.parametrize("run", ["watch", "my-strategy", "package.module:function", "module:Class.method"])
def test_what_a_strategy_may_run(load, run):
    """The name of an entry point or a function of a module."""
    assert load(f'[[strategies]]\nname = "a"\nrun = "{run}"').strategies[0].run == run


# --- misspelt --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[ibkr]\nprot = 1", "did you mean ibkr.port?"),
        ("[ibrk]\nport = 1", "did you mean ibkr?"),
        ("port = 1", "did you mean ibkr.port?"),
        ("[journal]\ndurabillity = 1", "did you mean journal.durability?"),
        ("xyzzy = 1", "the tables are ibkr, simulator, journal, risk, log, notify, service, strategies"),
        ('[[strategies]]\nname = "a"\nruns = "x"', "did you mean run?"),
        ('[[strategies]]\nname = "a"\nrun = "x"\nxyzzy = 1', "a strategy has name, run, params, risk, restart"),
    ],
)
def test_misspelt_in_the_file(complaint, text, hint):
    """A key that does not exist is an error, and the nearest that does is named."""
    line = complaint(text)
    assert "settings.toml): there is no such key; " in line
    assert hint in line


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("IBKR_SERVICE_IBKR__PROT", "did you mean IBKR_SERVICE_IBKR__PORT?"),
        ("IBKR_SERVICE_IBKR_PORT", "did you mean IBKR_SERVICE_IBKR__PORT?"),
        ("IBKR_SERVICE_PORT", "did you mean IBKR_SERVICE_IBKR__PORT?"),
        ("IBKR_SERVICE_JORNAL__PATH", "did you mean IBKR_SERVICE_JOURNAL__PATH?"),
    ],
)
def test_misspelt_in_the_environment(complaint, name, hint):
    """A misspelt variable is not ignored, and the right one is spelt as a variable."""
    line = complaint(environ={name: "1"})
    assert f"environment variable {name}): there is no such key; {hint}" in line


def test_strategies_are_not_set_by_the_environment(complaint):
    """A list of tables does not fit into variables; saying so is better than guessing."""
    assert "in the file only" in complaint(environ={"IBKR_SERVICE_STRATEGIES__SMA": "x"})


def test_a_table_that_is_also_a_value(complaint):
    """IBKR_SERVICE_IBKR=1 beside IBKR_SERVICE_IBKR__PORT=2 is reported, whichever comes first."""
    environ = {"IBKR_SERVICE_IBKR__PORT": "2", "IBKR_SERVICE_IBKR": "1"}
    assert complaint(environ=environ) == 'ibkr = "1" (environment variable IBKR_SERVICE_IBKR): must be a table'


def test_misspelt_option(complaint):
    """The command line's own keys are checked too."""
    assert complaint(overrides={"ibrk.port": 1}).startswith("ibrk.port (option): there is no such key; did you mean")
    assert complaint(overrides={"ibkr.prot": 1}) == "ibkr.prot (option): there is no such key; did you mean ibkr.port?"


# --- rules between keys ----------------------------------------------------------------------------------------------


def test_client_id_zero_must_be_asked_for(load, complaint):
    """Client id 0 binds manual orders, which nobody wants by accident."""
    assert "ibkr.client_id (option): client id 0 unasked" in complaint(overrides={"ibkr.client_id": 0})
    assert load("[ibkr]\nclient_id = 0\nbind_manual_orders = true").ibkr.client_id == 0


def test_the_two_client_ids_differ(complaint):
    """The commands must not throw the daemon out; the key that somebody set is blamed."""
    assert "ibkr.client_id (option): 90 must not be the same as cli_client_id = 90" in complaint(
        overrides={"ibkr.client_id": 90}
    )
    assert "ibkr.cli_client_id (option)" in complaint(overrides={"ibkr.cli_client_id": 1})


def test_min_is_not_above_max(load, complaint):
    """The delays of reconnecting are ordered; the key that somebody set is blamed."""
    assert "ibkr.reconnect_delay_min_s (option): 61 does not fit reconnect_delay_max_s = 60" in complaint(
        overrides={"ibkr.reconnect_delay_min_s": 61}
    )
    assert "ibkr.reconnect_delay_max_s (option): 1 does not fit" in complaint(
        overrides={"ibkr.reconnect_delay_max_s": 1}
    )
    assert load("[ibkr]\nreconnect_delay_min_s = 60").ibkr.reconnect_delay_min_s == 60


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_only_the_simulator_works_without_ib_insync(load, complaint, mode):
    """A real gateway speaks the wire protocol."""
    text = f'[ibkr]\nuse_ib_insync = false\nmode = "{mode}"'
    assert "ibkr.use_ib_insync" in complaint(text, live_flag=mode == "live")
    assert load("[ibkr]\nuse_ib_insync = false").ibkr.use_ib_insync is False


def test_real_money_needs_the_flag(load, complaint):
    """Mode live alone is refused, and so is the flag alone."""
    assert complaint(overrides={"ibkr.mode": "live"}).endswith("(option): real money needs the option --live as well")
    assert complaint('[ibkr]\nmode = "paper"', live_flag=True).endswith('--live goes with mode "live" only')
    assert "(default)" in complaint(live_flag=True)
    assert load('[ibkr]\nmode = "live"', live_flag=True).ibkr.mode == "live"


def test_strategies_have_names_of_their_own(complaint):
    """A name stands in order references: two strategies cannot share one."""
    table = '[[strategies]]\nname = "sma"\nrun = "watch"\n'
    assert "strategies[sma].name (" in complaint(table * 2)


# --- describe --------------------------------------------------------------------------------------------------------


def test_describe_masks_what_is_private(load):
    """Accounts show what tells them apart, secrets nothing; everything else stands as in the file."""
    settings = load(
        '[ibkr]\naccount = "DU1234567"\n[[strategies]]\nname = "a"\nrun = "watch"\n'
        'params = { symbols = ["AAPL", "MSFT"], size = 2, api_token = "hunter2", deep = { password = "x" } }\n'
    )
    rows = {key: value for key, value, _ in describe(settings)}
    assert rows["ibkr.account"] == '"DU…567"'
    assert rows["ibkr.port"] == "7497"
    assert rows["ibkr.read_only"] == "false"
    assert (
        rows["strategies[a].params"]
        == '{symbols = ["AAPL", "MSFT"], size = 2, api_token = ***, deep = {password = ***}}'
    )
    tables = Settings().model_dump(exclude={"strategies"}).values()
    inside = len(ControllerSettings.model_fields) - 1  # a table in a table counts by its keys
    assert len(rows) == sum(len(table) for table in tables) + inside + 7


def test_a_wrong_account_is_masked_in_the_complaint(complaint):
    """An error message is read by others too."""
    line = complaint('[ibkr]\naccount = "DU 1234567"')
    assert "1234" not in line.replace('"DU1234567", or', "")
