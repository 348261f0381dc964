from __future__ import annotations

from pathlib import Path

import pytest

from serve.settings import Settings, SettingsError


def test_the_defaults_are_those_of_the_platform() -> None:
    settings = Settings.from_environment({})
    assert (settings.model, settings.host, settings.port) == (
        Path("/opt/ml/model"),
        "0.0.0.0",
        8080,
    )
    assert settings.max_body == 100 * 2**20


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environment({"SAGEMAKER_BIND_TO_PORT": ""}).port == 8080


@pytest.mark.parametrize("value", ["0", "65536", "http", "80.5", "-1"])
def test_a_port_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match=f"SAGEMAKER_BIND_TO_PORT={value}"):
        Settings.from_environment({"SAGEMAKER_BIND_TO_PORT": value})


def test_a_choice_that_is_none_names_the_choices() -> None:
    with pytest.raises(SettingsError, match="OPTML_PRECISION=int4 is none of auto, bf16, fp32"):
        Settings.from_environment({"OPTML_PRECISION": "int4"})


def test_an_unknown_variable_of_ours_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="OPTML_PORT; known are OPTML_HOST"):
        Settings.from_environment({"OPTML_PORT": "1"})
