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

# The suffix of a file's name while the file is being written.
PARTIAL = ".partial"

# The error codes for a full disk, an exhausted quota and a file above the size limit.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def written_whole(path: Union[str, Path]) -> Iterator[Path]:
    """
    A context in which a file is written under a temporary name. The file gets its final name when
    the context ends, after its content was synced to the disk. So neither a kill nor a crash leaves
    a partial file under this name. After an exception the temporary file is removed.

    ```python
    with written_whole(path) as partial:
        save_file(values, partial)
    ```

    # Parameters

    path : `Union[str, Path]`
        The path of the file. An existing file is replaced.

    # Returns

    partial : `Iterator[Path]`
        The temporary file to write to: `path` with `.partial` after its name.

    # Raises

    `ConfigurationError` : if there is no room for the file. The message names the file and its
    size.
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
        # A nested `written_whole` has already explained the error of its own file.
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
    Like `written_whole`, but with an open file. `torch.save` needs it, because it does not report a
    full disk and may end the process.

    ```python
    with whole_file(path) as file:
        torch.save(state, file)
    ```

    # Returns

    file : `Iterator[BinaryIO]`
        The file to write to. An error of writing is raised when the context ends.
    """
    with written_whole(path) as partial, open(partial, "wb", buffering=0) as file:
        with patient(file, path) as writer:
            yield writer


@contextlib.contextmanager
def patient(file: Any, path: Union[str, Path]) -> Iterator[Any]:
    """
    A context in which writing to an open file does not fail, even if the disk is full. The first
    error is raised when the context ends.

    # Parameters

    file : `RawIOBase`
    path : `Union[str, Path]`
        The name of the file.
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
    """
    The system's message, if `error` means that there is no room. The text of `error` is searched
    too, because errors from libraries in other languages have no `errno`.
    """
    for code in _NO_ROOM:
        if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
            return os.strerror(code)
    return None


def _sync_directory(directory: Path) -> None:
    # Otherwise a renamed file may have its old name again after a crash of the machine.
    descriptor = os.open(str(directory), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
