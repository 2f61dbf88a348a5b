"""
`allennlp average`: averages made after training.
"""

import argparse
import sys
from typing import Callable

from allennlp.commands.subcommand import Subcommand
from allennlp.common.checks import ConfigurationError

from allennlp_ema.commands import checkpoints, inspect, show, soup, sweep, synthesize


@Subcommand.register("average")
class Average(Subcommand):
    """
    `allennlp average`. Its own subcommands are the other modules of this package. An error in their
    arguments or files is printed in one line, with exit status 1.

    ```python
    >>> from allennlp.commands.subcommand import Subcommand
    >>> Subcommand.by_name("average").__name__
    'Average'

    ```

    Registered as a `Subcommand` with name "average".
    """

    # AllenNLP would add --include-package before the name of the inner command, where users do not
    # expect it, so each inner command adds it. Plugins are imported already, as this is a plugin.
    requires_plugins = False

    def add_subparser(self, parser: argparse._SubParsersAction) -> argparse.ArgumentParser:
        description = "Make averages of weights after training, and show averages before training."
        subparser = parser.add_parser(self.name, description=description, help=description)
        commands = subparser.add_subparsers(title="Commands", metavar="COMMAND")
        for command in (show, checkpoints, soup, synthesize, sweep, inspect):
            command_parser = command.add_parser(commands)
            command_parser.add_argument(
                "--include-package",
                type=str,
                action="append",
                default=[],
                help="additional packages to include",
            )
            command_parser.set_defaults(func=_with_short_errors(command.run, command_parser.prog))
        subparser.set_defaults(func=lambda arguments: subparser.print_help())
        return subparser


def _with_short_errors(
    run: Callable[[argparse.Namespace], None], program: str
) -> Callable[[argparse.Namespace], None]:
    def with_short_errors(arguments: argparse.Namespace) -> None:
        try:
            run(arguments)
        except (ConfigurationError, OSError, MemoryError) as error:
            message = f"not enough memory: {error}" if isinstance(error, MemoryError) else error
            print(f"{program}: error: {' '.join(str(message).split())}", file=sys.stderr)
            sys.exit(1)

    return with_short_errors
