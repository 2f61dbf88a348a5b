"""
The subcommand `allennlp average`.
"""

from allennlp_ema.commands.average import Average

__all__ = ["Average"]
