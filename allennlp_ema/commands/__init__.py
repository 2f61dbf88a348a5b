"""
The subcommands of `allennlp`.
"""

from allennlp_ema.commands.average import Average

__all__ = ["Average"]
