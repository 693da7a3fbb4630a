"""Progress of long work: a bar of tqdm, a function of the caller, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Union

Progress = Union[bool, Callable[[int], object], None]

# With at least this many texts, a terminal shows a progress bar by default.
LONG_WORK = 2000


def counted(texts: Iterable[str]) -> tuple[Iterable[str], int | None]:
    try:
        return texts, len(texts)  # type: ignore[arg-type]
    except TypeError:
        return texts, None


class Bar:
    """A context manager that gives the function to call with the number of finished texts, or None.
    """

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._call = progress if callable(progress) else None
        self._bar: Any = None
        wanted = progress is True or (progress is None and sys.stderr.isatty() and (total or 0) >= LONG_WORK)
        if wanted and self._call is None:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                if progress is True:
                    raise ImportError("progress=True needs tqdm: pip install gte-embed[progress]") from None
            else:
                self._bar = tqdm(total=total, unit="text")

    def __enter__(self) -> Callable[[int], object] | None:
        if self._bar is not None:
            return lambda done: self._bar.update(done - self._bar.n)
        return self._call

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
