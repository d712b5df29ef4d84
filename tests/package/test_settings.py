"""WebSocketProcessSettings: defaults, checking, resetting, and what can be seen of it."""

from __future__ import annotations

import math
import warnings
from typing import Any, get_type_hints

import pytest

import mormot_ws
from mormot_ws.core.deflate import PermessageDeflate
from mormot_ws.reconnect_policies import ExponentialBackoff, LinearBackoff
from mormot_ws.settings import (
    MillisecondsWarning,
    WebSocketProcessSettings,
    WebSocketProcessSettingsLogDetails,
    logBinaryFrameContent,
    logHeartbeat,
    logTextFrameContent,
)

DEFAULTS = WebSocketProcessSettings._DEFAULTS
NUMBERS = [name for name, value in DEFAULTS.items() if type(value) is int]
FLAGS = [
    name for name, value in DEFAULTS.items() if type(value) is bool and name != "permessage_deflate"
]
#: settings for which 0 has no meaning
FROM_ONE = [
    "max_frame_mb",
    "max_message_bytes",
    "max_fragments",
    "max_header_bytes",
    "max_answer_bytes",
    "handshake_timeout",
    "send_timeout",
    "close_timeout",
    "resolve_timeout",
    "max_server_threads",
]


class TestDefaults:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("heartbeat_delay", 20_000),
            ("loop_delay", 500),
            ("send_delay", 10),
            ("disconnect_after_invalid_heartbeat_count", 5),
            ("callback_acquire_timeout_ms", 5_000),
            ("callback_answer_timeout_ms", 30_000),
            ("on_client_connected", None),
            ("on_client_disconnected", None),
            ("client_auto_upgrade", True),
            ("client_restore_callbacks", False),
            ("log_details", WebSocketProcessSettingsLogDetails(0)),
            ("notify_all_frames", False),
            ("max_frame_mb", 256),
        ],
    )
    def test_the_originals_settings_have_its_values(self, name: str, value: Any) -> None:
        """Names, units and numbers of ``TWebSocketProcessSettings`` (the heartbeat is that of its
        server, on both sides).
        """
        assert getattr(WebSocketProcessSettings(), name) == value

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("free_in_callback", "freeze"),
            ("outgoing_policy", "refuse"),
            ("allowed_origins", None),
            ("allowed_hosts", None),
            ("remote_ip_header", ""),
            ("permessage_deflate", False),
            ("max_connections", 0),
            ("max_connections_per_ip", 0),
        ],
        ids=str,
    )
    def test_what_changes_behaviour_is_off_by_default(self, name: str, value: Any) -> None:
        """Ported code meets the original's behaviour until it asks for more."""
        assert getattr(WebSocketProcessSettings(), name) == value

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_message_bytes", 16_777_216),
            ("max_fragments", 1_048_576),
            ("max_header_bytes", 16_384),
            ("max_body_bytes", 16_777_216),
            ("max_outgoing_bytes", 16_777_216),
            ("max_outgoing_frames", 100_000),
            ("max_pings_per_second", 1_000),
            ("handshake_timeout", 10_000),
            ("keep_alive_timeout", 30_000),
            ("send_timeout", 10_000),
            ("close_timeout", 1_000),
            ("resolve_timeout", 5_000),
            ("max_answer_bytes", 67_108_864),
            ("reconnect_stable_after", 5_000),
        ],
    )
    def test_our_own_limits_have_their_values(self, name: str, value: int) -> None:
        """Nothing is unbounded unless the application says so."""
        assert getattr(WebSocketProcessSettings(), name) == value

    def test_every_setting_is_documented_by_a_type(self) -> None:
        """The annotated names and those with a default are the same."""
        annotated = {
            name for name in WebSocketProcessSettings.__annotations__ if not name.startswith("_")
        }
        assert annotated == set(DEFAULTS)

    def test_the_default_policy_is_the_exponential_one_made_anew(self) -> None:
        """Each client thread gets its own object."""
        policy = WebSocketProcessSettings().reconnect_policy
        one, two = policy(), policy()
        assert type(one) is ExponentialBackoff
        assert one is not two

    def test_two_objects_do_not_share_their_values(self) -> None:
        """Changing one leaves the other alone."""
        one, two = WebSocketProcessSettings(), WebSocketProcessSettings()
        one.heartbeat_delay = 1_000
        assert two.heartbeat_delay == 20_000

    def test_the_log_details_are_plain_names_too(self) -> None:
        """Ported code writes ``logHeartbeat`` without the enum."""
        assert [
            mormot_ws.logHeartbeat,
            mormot_ws.logTextFrameContent,
            mormot_ws.logBinaryFrameContent,
        ] == list(WebSocketProcessSettingsLogDetails)


class TestConstructor:
    def test_any_setting_is_taken_by_keyword(self) -> None:
        """The others keep their defaults."""
        settings = WebSocketProcessSettings(
            heartbeat_delay=0, max_frame_mb=1, notify_all_frames=True
        )
        assert (settings.heartbeat_delay, settings.max_frame_mb, settings.notify_all_frames) == (
            0,
            1,
            True,
        )
        assert settings.send_delay == 10

    @pytest.mark.parametrize("name", ["heartbeat", "HeartbeatDelay", "_DEFAULTS", "set_defaults"])
    def test_an_unknown_name_is_a_type_error(self, name: str) -> None:
        """As with any keyword argument; the error names it."""
        with pytest.raises(TypeError, match=name):
            WebSocketProcessSettings(**{name: 1})

    def test_a_bad_value_is_a_value_error(self) -> None:
        """The same check as for an assignment."""
        with pytest.raises(ValueError, match="heartbeat_delay"):
            WebSocketProcessSettings(heartbeat_delay=-1)


class TestAssignment:
    @pytest.mark.parametrize(
        "name", ["heart_beat_delay", "HeartbeatDelay", "_DEFAULTS", "set_defaults"]
    )
    def test_an_unknown_name_is_an_attribute_error(self, name: str) -> None:
        """A misspelt setting is not silently ignored."""
        with pytest.raises(AttributeError, match=name):
            setattr(WebSocketProcessSettings(), name, 1)

    @pytest.mark.parametrize("name", NUMBERS)
    def test_a_number_is_kept(self, name: str) -> None:
        """Any whole number in its range."""
        settings = WebSocketProcessSettings()
        setattr(settings, name, 12_345)
        assert getattr(settings, name) == 12_345

    @pytest.mark.parametrize("value", [-1, 1.5, "10", None, True, 10.0], ids=repr)
    @pytest.mark.parametrize("name", NUMBERS)
    def test_what_is_no_number_from_zero_is_refused(self, name: str, value: Any) -> None:
        """Negative numbers, fractions, texts and booleans; the error names setting and value, and
        the old value stays.
        """
        settings = WebSocketProcessSettings()
        with pytest.raises(
            ValueError, match=f"{name} must be a whole number, at least [01], not {value!r}"
        ):
            setattr(settings, name, value)
        assert getattr(settings, name) == DEFAULTS[name]

    @pytest.mark.parametrize("name", FROM_ONE)
    def test_zero_is_refused_where_it_has_no_meaning(self, name: str) -> None:
        """A limit or time-out of nothing would refuse everything."""
        settings = WebSocketProcessSettings()
        with warnings.catch_warnings():
            # a time-out of 1 ms is allowed, though seldom meant
            warnings.simplefilter("ignore", MillisecondsWarning)
            setattr(settings, name, 1)
        with pytest.raises(ValueError, match="at least 1"):
            setattr(settings, name, 0)

    @pytest.mark.parametrize("name", sorted(set(NUMBERS) - set(FROM_ONE)))
    def test_zero_switches_off_elsewhere(self, name: str) -> None:
        """0 is a value like any other."""
        settings = WebSocketProcessSettings()
        setattr(settings, name, 0)
        assert getattr(settings, name) == 0

    @pytest.mark.parametrize("name", FLAGS)
    def test_a_flag_is_true_or_false(self, name: str) -> None:
        """Nothing that only looks like it."""
        settings = WebSocketProcessSettings()
        for value in (True, False):
            setattr(settings, name, value)
            assert getattr(settings, name) is value
        for wrong in (1, 0, None, "no"):
            with pytest.raises(ValueError, match=f"{name} must be True or False"):
                setattr(settings, name, wrong)

    @pytest.mark.parametrize(
        ("name", "choices"),
        [
            ("free_in_callback", ["freeze", "raise"]),
            ("outgoing_policy", ["refuse", "drop_oldest", "close"]),
        ],
    )
    def test_a_choice_is_one_of_its_words(self, name: str, choices: list[str]) -> None:
        """Each of them, and no other; the error lists them."""
        settings = WebSocketProcessSettings()
        for choice in choices:
            setattr(settings, name, choice)
            assert getattr(settings, name) == choice
        for wrong in ("", choices[0].upper(), None):
            with pytest.raises(ValueError, match=" or ".join(map(repr, choices))):
                setattr(settings, name, wrong)

    @pytest.mark.parametrize("name", ["on_client_connected", "on_client_disconnected"])
    def test_an_event_is_a_callable_or_none(self, name: str) -> None:
        """Anything else would only fail when the event comes."""
        settings = WebSocketProcessSettings()
        for value in (print, None):
            setattr(settings, name, value)
            assert getattr(settings, name) is value
        with pytest.raises(ValueError, match=f"{name} must be a callable or None"):
            setattr(settings, name, "print")

    def test_the_policy_is_what_makes_one(self) -> None:
        """A class or a function will do."""
        settings = WebSocketProcessSettings()
        settings.reconnect_policy = LinearBackoff
        assert type(settings.reconnect_policy()) is LinearBackoff

    @pytest.mark.parametrize("value", [None, LinearBackoff()], ids=["None", "a policy"])
    def test_a_policy_itself_is_refused(self, value: Any) -> None:
        """One object could not serve several threads."""
        with pytest.raises(ValueError, match="a callable that returns a policy"):
            WebSocketProcessSettings().reconnect_policy = value

    @pytest.mark.parametrize("value", [True, False, PermessageDeflate(level=1)], ids=str)
    def test_deflate_is_a_switch_or_its_options(self, value: bool | PermessageDeflate) -> None:
        """All three forms are kept as they are."""
        settings = WebSocketProcessSettings(permessage_deflate=value)
        assert settings.permessage_deflate is value

    @pytest.mark.parametrize("value", [1, None, "on", {}], ids=repr)
    def test_anything_else_is_no_deflate(self, value: Any) -> None:
        """The error says what it may be."""
        with pytest.raises(ValueError, match="True, False or a PermessageDeflate"):
            WebSocketProcessSettings().permessage_deflate = value

    @pytest.mark.parametrize(
        "value", [None, {"https://a.example"}, ["https://a.example"], ()], ids=repr
    )
    def test_allowed_origins_are_a_collection_or_none(self, value: Any) -> None:
        """Sets, lists and tuples."""
        assert WebSocketProcessSettings(allowed_origins=value).allowed_origins == value

    @pytest.mark.parametrize("value", ["https://a.example", 5], ids=repr)
    def test_one_text_is_no_collection_of_origins(self, value: Any) -> None:
        """It would be taken for a collection of characters."""
        with pytest.raises(ValueError, match="a set of origins or None"):
            WebSocketProcessSettings().allowed_origins = value

    @pytest.mark.parametrize(
        "value", ["https://a.example/", "a.example", "https://", "https://a.example/x", 5], ids=repr
    )
    def test_what_no_browser_sends_is_no_origin(self, value: Any) -> None:
        """It would match nothing, and shut the page out that it was meant for."""
        with pytest.raises(ValueError, match="without a path or a slash"):
            WebSocketProcessSettings().allowed_origins = {"https://b.example", value}

    @pytest.mark.parametrize("value", [3, "heartbeat", None], ids=repr)
    def test_log_details_are_flags(self, value: Any) -> None:
        """The constructor promises a ValueError for a bad value."""
        with pytest.raises(ValueError):
            WebSocketProcessSettings().log_details = value

    def test_log_details_can_be_combined(self) -> None:
        """Any union of the flags is kept."""
        settings = WebSocketProcessSettings(log_details=logHeartbeat | logTextFrameContent)
        assert logHeartbeat in settings.log_details
        assert logBinaryFrameContent not in settings.log_details


class TestResetting:
    def test_set_defaults_undoes_every_change(self) -> None:
        """As after the construction."""
        settings = WebSocketProcessSettings(
            heartbeat_delay=1_000, free_in_callback="raise", on_client_connected=print
        )
        settings.set_full_log()
        settings.set_defaults()
        assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS

    def test_the_full_log_has_all_details(self) -> None:
        """Heartbeats and both contents."""
        settings = WebSocketProcessSettings()
        settings.set_full_log()
        assert all(flag in settings.log_details for flag in WebSocketProcessSettingsLogDetails)

    def test_deflate_options_are_those_that_were_given(self) -> None:
        """The object itself."""
        options = PermessageDeflate(level=1)
        assert WebSocketProcessSettings(permessage_deflate=options).deflate_options() is options

    @pytest.mark.parametrize("switch", [True, False])
    def test_deflate_options_of_a_switch_are_the_defaults(self, switch: bool) -> None:
        """``True`` means these."""
        assert (
            WebSocketProcessSettings(permessage_deflate=switch).deflate_options()
            == PermessageDeflate()
        )


class TestRepr:
    def test_only_what_was_changed_is_shown(self) -> None:
        """A log line says what is special about these settings."""
        settings = WebSocketProcessSettings(
            heartbeat_delay=0, free_in_callback="raise", send_delay=10
        )
        assert (
            repr(settings)
            == "WebSocketProcessSettings(heartbeat_delay=0, free_in_callback='raise')"
        )
        assert repr(WebSocketProcessSettings()) == "WebSocketProcessSettings()"

    def test_annotations_can_be_resolved(self) -> None:
        """Tools that read the types find what they name."""
        from mormot_ws.process.process import WebSocketProcess
        from mormot_ws.reconnect_policies import ReconnectPolicy

        names = {"WebSocketProcess": WebSocketProcess, "ReconnectPolicy": ReconnectPolicy}
        assert get_type_hints(WebSocketProcessSettings, localns=names)["heartbeat_delay"] is int


class TestTimes:
    @pytest.mark.parametrize(
        "name", [name for name in NUMBERS if "timeout" in name or "delay" in name]
    )
    def test_a_time_of_more_than_a_year_is_refused(self, name: str) -> None:
        """It would overflow somewhere, in a thread that nobody looks at."""
        year = 366 * 86_400_000
        setattr(WebSocketProcessSettings(), name, year)
        with pytest.raises(ValueError, match=f"{name} must be at most {year}"):
            setattr(WebSocketProcessSettings(), name, year + 1)

    @pytest.mark.parametrize(
        "value", [math.inf, math.nan, 10**11, 0, -1, "5", None, True], ids=repr
    )
    def test_a_timeout_of_a_client_is_a_time(self, value: Any) -> None:
        """Refused where it is given, and not when the client connects."""
        with pytest.raises(ValueError, match="timeout must be"):
            mormot_ws.HttpClientWebSockets("127.0.0.1", 1, timeout=value)

    @pytest.mark.parametrize(
        "name",
        [
            "heartbeat_delay",
            "handshake_timeout",
            "send_timeout",
            "close_timeout",
            "resolve_timeout",
        ],
    )
    def test_a_time_that_looks_like_seconds_gets_a_warning(self, name: str) -> None:
        """It names the unit, and the line of the program that set it."""
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always", MillisecondsWarning)
            WebSocketProcessSettings(**{name: 5})
            setattr(WebSocketProcessSettings(), name, 5)
            mormot_ws.HttpClientWebSockets("127.0.0.1", 1, timeout=5)
        assert [warning.filename for warning in noted] == [__file__] * 3
        for said, what in zip(noted, (name, name, "timeout"), strict=True):
            assert said.category is MillisecondsWarning
            assert f"{what}=5 means 5 milliseconds" in str(said.message)
            assert f"{what}=5000" in str(said.message)

    def test_other_times_get_none(self) -> None:
        """Off, a tenth of a second, and what is short by its nature."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            WebSocketProcessSettings(heartbeat_delay=0, close_timeout=100, send_delay=1)


class TestPlaces:
    @pytest.mark.parametrize("value", ["a.example", 5, {"https://a.example"}, [""]], ids=repr)
    def test_allowed_hosts_are_names(self, value: Any) -> None:
        """A collection of them; what no ``Host`` can be is refused."""
        with pytest.raises(ValueError, match=r"host names or None|a host looks like"):
            WebSocketProcessSettings(allowed_hosts=value)

    @pytest.mark.parametrize("value", ["127.0.0.1", None, ["localhost"], [5]], ids=repr)
    def test_trusted_proxies_are_addresses_and_networks(self, value: Any) -> None:
        """A collection of them."""
        with pytest.raises(ValueError, match="trusted_proxies"):
            WebSocketProcessSettings(trusted_proxies=value)
        assert WebSocketProcessSettings(trusted_proxies=["::1", "10.0.0.1/8"])

    @pytest.mark.parametrize("value", ["X-Real-IP\r\nX: y", "X Y", None, "X:"], ids=repr)
    def test_the_header_of_proxies_is_a_name(self, value: Any) -> None:
        """No line can be smuggled in."""
        with pytest.raises(ValueError, match="the name of a header"):
            WebSocketProcessSettings(remote_ip_header=value)
