"""Making a class a plugin for the time of a test, the way an installed distribution does: through an entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType

from muxx.discovery import GROUP

_numbers = count()
"""A name that was in a directory before is still there."""


@contextmanager
def installed(plugins: Mapping[str, type], directory: Path) -> Iterator[None]:
    """Have `plugins` (name to class) found beside the installed ones. `directory` gets the distribution's metadata.

    The classes may stand anywhere, inside a test function too: the entry points name a module made for them.
    """
    module = ModuleType(f"muxx_testing_plugins_{next(_numbers)}")
    places = {f"plugin_{number}": name for number, name in enumerate(plugins)}
    vars(module).update({place: plugins[name] for place, name in places.items()})
    metadata = directory / f"{module.__name__}-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.__name__}\nVersion: 0\n")
    entries = "".join(f"{name} = {module.__name__}:{place}\n" for place, name in places.items())
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}")
    sys.modules[module.__name__] = module
    sys.path.append(str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        del sys.modules[module.__name__]
