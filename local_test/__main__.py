"""Amazon SageMaker's rules on your own machine, for any image: `python -m local_test --help`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from local_test.arguments import ArgumentError
from local_test.programs import EngineError

COMMANDS = {
    "train": ("local_test.training", "run a training job"),
    "serve": ("local_test.serving", "host a model behind an API that boto3 can call"),
    "batch": ("local_test.batch", "run a batch transform job"),
    "conform": ("local_test.conformance", "hold an image against the rules of the contract"),
}
"""By name: the module with `add_arguments(parser)` and `run(arguments)`, and what it does."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local_test", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(
            name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in sys.argv[1:2]:
            command = import_module(module)
            sub.description = command.__doc__
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    arguments = parser.parse_args()
    try:
        code: int = arguments.run(arguments)
    except ArgumentError as error:
        parser.exit(2, f"local_test: {error}\n")
    except EngineError as error:
        parser.exit(1, f"local_test: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
