"""Files that are whole or absent."""

import csv
import io
import os
import threading
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, content: str | bytes, *, durable: bool = False):
    """Under another name first, then renamed. durable: also whole or absent after a loss of power."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")  # nobody else's
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_csv(path: Path, columns: Iterable, rows: Iterable):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write(path, text.getvalue())
