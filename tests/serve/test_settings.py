from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from serve.settings import Settings, SettingsError, table


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
    with pytest.raises(
        SettingsError, match="OPTML_PRECISION=int4 is none of auto, int8, bf16, fp32"
    ):
        Settings.from_environment({"OPTML_PRECISION": "int4"})


def test_an_unknown_variable_of_ours_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="OPTML_PORT; known are OPTML_HOST"):
        Settings.from_environment({"OPTML_PORT": "1"})


@pytest.mark.parametrize(
    ("value", "batch", "sdk_local_mode"),
    [("true", True, False), ("True", True, True), ("false", False, False), ("", False, False)],
)
def test_a_batch_transform_job_is_known_by_its_variable_and_local_mode_by_a_capital(
    value: str, batch: bool, sdk_local_mode: bool
) -> None:
    settings = Settings.from_environment({"SAGEMAKER_BATCH": value})
    assert (settings.batch, settings.sdk_local_mode) == (batch, sdk_local_mode)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 60),
        ({"OPTML_TIMEOUT": "7"}, 7),
        ({"OPTML_TIMEOUT": "0"}, math.inf),
        ({"SAGEMAKER_BATCH": "true"}, math.inf),
        ({"SAGEMAKER_BATCH": "true", "OPTML_TIMEOUT": "7"}, 7),
    ],
)
def test_a_job_has_no_time_limit_but_one_that_was_set(
    environment: dict[str, str], seconds: float
) -> None:
    assert Settings.from_environment(environment).timeout == seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPTML_TIMEOUT", "-1"),
        ("OPTML_TIMEOUT", "1.5"),
        ("OPTML_MAX_REQUESTS", "0"),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", "0"),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", "all"),
        ("OPTML_MAX_TOKENS", "many"),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "0"),
    ],
)
def test_a_limit_that_is_none_is_told_with_what_it_may_be(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}={value} is no whole number from"):
        Settings.from_environment({name: value})


def test_the_help_tells_every_variable_with_its_default() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve", "--help"], capture_output=True, text=True, check=True
    )
    for name, default, meaning in table():
        assert f"{name} ({default}): {meaning}" in done.stdout
