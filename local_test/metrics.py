"""What the service would find in a job's log by its MetricDefinitions.

Source: Amazon SageMaker developer guide, "Monitor and analyze training jobs using metrics".
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

from local_test.arguments import ArgumentError

__all__ = ["Metrics", "read_definitions"]

# Limits of the CreateTrainingJob API.
MAX_DEFINITIONS = 40
MAX_NAME = 255
MAX_REGEX = 500


def read_definitions(path: Path) -> dict[str, str]:
    """Read a file in the form of the API: `[{"Name": …, "Regex": …}, …]`.

    Raises:
        ArgumentError: the file is missing or has another form.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return {entry["Name"]: entry["Regex"] for entry in listed}
    except OSError as error:
        raise ArgumentError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        form = '[{"Name": "loss", "Regex": "loss=([0-9.]+)"}, …]'
        raise ArgumentError(f"{path} is not of the form {form}") from error


class Metrics:
    """The values that were found so far.

    Raises:
        ArgumentError: the service would refuse a definition.
    """

    def __init__(self, definitions: Mapping[str, str]) -> None:
        if len(definitions) > MAX_DEFINITIONS:
            raise ArgumentError(
                f"{len(definitions)} metric definitions; SageMaker allows {MAX_DEFINITIONS}"
            )
        self.definitions = definitions
        self.values: dict[str, list[tuple[float, float]]] = {name: [] for name in definitions}
        """By name: the time, in seconds since 1970, and the value."""
        self._patterns = {name: _pattern(name, regex) for name, regex in definitions.items()}

    def read(self, line: str) -> None:
        """Look for every metric in a line of the log."""
        for name, pattern in self._patterns.items():
            if found := pattern.search(line):
                try:
                    self.values[name].append((time.time(), float(found[1])))
                except ValueError:
                    continue  # the service drops what is no number

    def table(self) -> str:
        """Return a line a metric: name, how often it was found, last value."""
        found = {name: values for name, values in self.values.items() if values}
        width = max(map(len, ["metric", *found]))
        rows = [f"{'metric':{width}} {'found':>6} {'last':>12}"]
        rows += [f"{name:{width}} {len(values):>6} {values[-1][1]:>12.6g}"
                 for name, values in found.items()]  # fmt: skip
        missing = [name for name in self.values if name not in found]
        return "\n".join(rows + ([f"never found: {', '.join(missing)}"] if missing else []))


def _pattern(name: str, regex: str) -> re.Pattern[str]:
    if not name or len(name) > MAX_NAME or not regex or len(regex) > MAX_REGEX:
        raise ArgumentError(
            f'metric "{name[:40]}": SageMaker allows names of 1 to {MAX_NAME} characters, and '
            f"regular expressions of 1 to {MAX_REGEX}"
        )
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise ArgumentError(
            f'metric "{name}": {regex} is no regular expression: {error}'
        ) from error
    if not pattern.groups:
        raise ArgumentError(f'metric "{name}": {regex} has no group in parentheses for the value')
    return pattern
