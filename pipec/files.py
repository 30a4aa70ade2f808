"""Writing files: whole or not at all."""

import errno
import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file; one that is there is replaced whole, or stays as it was.

    What is no regular file (a pipe, a device) is written to. Raises `OSError` that names `path`.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8", errors="replace")
            return
        target = path.resolve()
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        draft = target.with_name(f".{target.name[:200]}.{os.getpid()}")
        try:
            draft.write_text(text, encoding="utf-8", errors="replace")
            if target.exists():
                draft.chmod(target.stat().st_mode)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
