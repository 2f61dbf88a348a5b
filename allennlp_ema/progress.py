"""
Progress bars for whatever takes more than a second.
"""

from typing import Any

from allennlp.common import Tqdm


def progress(*arguments: Any, **keywords: Any) -> Any:
    """AllenNLP's progress bar, which does not show up before a second has passed."""
    return Tqdm.tqdm(*arguments, **{"delay": 1.0, **keywords})
