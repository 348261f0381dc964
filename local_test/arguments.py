"""What the commands have in common: pairs as arguments, and the engine that an image needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from local_test.programs import NOT_KEPT_BARE, Engine, find_engine

__all__ = ["ArgumentError", "add_pairs", "engine_for", "pairs", "say"]


class ArgumentError(Exception):
    """The command line asks for something that is not possible; the message says what is."""


def add_pairs(parser: argparse._ActionsContainer, name: str, form: str, text: str) -> None:
    """Add an option of the form KEY=VALUE that may be repeated."""
    parser.add_argument(
        f"--{name}", action="append", default=[], metavar=form, help=f"{text}; may be repeated"
    )


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Return what an option of `add_pairs` was given.

    Raises:
        ArgumentError: a text has no key, or one that was given before.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ArgumentError(f'--{option} "{text}" is not of the form KEY=VALUE')
        if key in found:
            raise ArgumentError(f'--{option} "{key}" is given twice')
        found[key] = value
    return found


def engine_for(image: str | None) -> Engine | None:
    """Return the engine that has the image; None where the bare programs run, which is told.

    Raises:
        EngineError: an engine answers, but does not have the image.
    """
    engine = find_engine() if image else None
    if engine and image:
        engine.require(image)
        return engine
    why = f"no container engine answers, so {image} cannot run" if image else "no image is named"
    say(f"{why}: the bare program of this repository runs. Not kept: {', '.join(NOT_KEPT_BARE)}")
    return None


def say(text: str) -> None:
    print(f"local_test: {text}", file=sys.stderr, flush=True)
