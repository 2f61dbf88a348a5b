"""
Files that are written whole or not at all.
"""

import contextlib
import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any, Iterator, Optional, Union

from allennlp.common.checks import ConfigurationError

# What stands behind a file's name while it is being written.
PARTIAL = ".partial"

# By what a system says that there is no room: on the disk, of a quota, for a file so large.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def written_whole(path: Union[str, Path]) -> Iterator[Path]:
    """
    A context in which a file is written under another name. It gets its own name when the context
    ends, with its content on the disk, so that neither a kill nor a crash leaves a part of it; if
    something is raised, nothing is left behind.

    ```python
    with written_whole(path) as partial:
        save_file(values, partial)
    ```

    # Parameters

    path : `Union[str, Path]`
        Of the file. It is replaced if it exists.

    # Returns

    partial : `Iterator[Path]`
        Where to write it: beside `path`, whose name with `.partial` it has.

    # Raises

    `ConfigurationError` : naming the file and its size, if there is no room for it.
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
        num_written = 0
        with contextlib.suppress(FileNotFoundError):
            num_written = partial.stat().st_size
            partial.unlink()
        # That of another file says so already.
        if _no_room(error) is not None and not isinstance(error, ConfigurationError):
            size = getattr(error, "num_bytes", None) or f"more than {num_written}"
            raise ConfigurationError(
                f"{path} cannot be written: {_no_room(error)}. It takes {size} bytes, and "
                f"{shutil.disk_usage(str(path.parent)).free} are free"
            ) from error
        raise


@contextlib.contextmanager
def whole_file(path: Union[str, Path]) -> Iterator[Any]:
    """
    The same with an open file, for `torch.save` above all, which tells nothing of a full disk and
    may end the process.

    ```python
    with whole_file(path) as file:
        torch.save(state, file)
    ```

    # Returns

    file : `Iterator[BinaryIO]`
        To write to. What it cannot hold is raised when the context ends.
    """
    with written_whole(path) as partial, open(partial, "wb", buffering=0) as file:
        with patient(file, path) as writer:
            yield writer


@contextlib.contextmanager
def patient(file: Any, path: Union[str, Path]) -> Iterator[Any]:
    """
    A context in which an open file takes all that is written, also when the disk is full. What it
    could not hold is raised when the context ends.

    # Parameters

    file : `RawIOBase`
    path : `Union[str, Path]`
        What the file is called.
    """
    with _PatientFile(file, path) as writer:
        yield writer
        writer.raise_error()


class _PatientFile(io.RawIOBase):
    def __init__(self, file: Any, path: Union[str, Path]) -> None:
        self._file = file
        self._path = path
        self._num_bytes = 0
        self._error: Optional[OSError] = None

    def raise_error(self) -> None:
        if self._error is not None:
            self._error.num_bytes = self._num_bytes  # type: ignore[attr-defined]
            raise self._error

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        content = memoryview(content).cast("B")
        self._num_bytes += len(content)
        num_written = 0
        while self._error is None and num_written < len(content):
            try:
                num_written += self._file.write(content[num_written:]) or 0
            except OSError as error:
                self._error = error
        return len(content)

    def __str__(self) -> str:
        return str(self._path)


def _no_room(error: BaseException) -> Optional[str]:
    """What `error` says, if it says that there is no room. Other languages' errors have no code."""
    for code in _NO_ROOM:
        if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
            return os.strerror(code)
    return None


def _sync_directory(directory: Path) -> None:
    # Without it a renamed file may have its old name again after a crash of the machine.
    descriptor = os.open(str(directory), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
