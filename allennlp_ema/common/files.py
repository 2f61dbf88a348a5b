"""
Files that are written whole or not at all.
"""

import contextlib
import errno
import os
from pathlib import Path
from typing import Iterator, Union

from allennlp.common.checks import ConfigurationError

# What stands behind a file's name while it is being written.
PARTIAL = ".partial"


@contextlib.contextmanager
def written_whole(path: Union[str, Path]) -> Iterator[Path]:
    """
    A context in which a file is written under another name. It gets its own name when the context
    ends, with its content on the disk, so that neither a kill nor a crash leaves a part of it; if
    something is raised, nothing is left behind.

    ```python
    with written_whole(path) as partial:
        torch.save(state, partial)
    ```

    # Parameters

    path : `Union[str, Path]`
        Of the file. It is replaced if it exists.

    # Returns

    partial : `Iterator[Path]`
        Where to write it: beside `path`, whose name with `.partial` it has.

    # Raises

    `ConfigurationError` : naming the file, if the disk is full.
    """
    path = Path(path)
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ConfigurationError(f"{path}: there is no space left on the disk") from error
        raise


def _sync_directory(directory: Path) -> None:
    # Without it a renamed file may have its old name again after a crash of the machine.
    descriptor = os.open(str(directory), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
