"""What `muxx plugins new` writes: a distribution with one plugin, laid out as plugins/muxx-redact is.

The files beside this one are the templates: `$name`, `$package`, `$distribution`, `$class_name`, `$header` and `$muxx` in them,
and in the paths of `FILES`, stand for what `Names` holds.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import asdict, dataclass
from importlib import metadata, resources, util
from pathlib import Path
from string import Template

from ..discovery import candidates
from ..errors import StartError
from ..pluginfiles import RESERVED
from ..version import __version__

FILES = (
    ("gitignore.txt", ".gitignore"),
    ("README.md.txt", "README.md"),
    ("pyproject.toml.txt", "pyproject.toml"),
    ("setup.cfg.txt", "setup.cfg"),
    ("plugin.py.txt", "src/$package/__init__.py"),
    ("py.typed.txt", "src/$package/py.typed"),
    ("test_plugin.py.txt", "tests/test_$name.py"),
    ("test_conformance.py.txt", "tests/test_${name}_conformance.py"),
)
"""Template, and where it goes."""

MAX_NAME = 40
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_PREFIX = re.compile(r"^muxx[-_](?=.)")


@dataclass(frozen=True, slots=True)
class Names:
    """What a plugin is called, everywhere."""

    name: str
    """In `[plugins.NAME]`, `muxx plugins`, `skip_chunks("NAME")`."""
    distribution: str
    package: str
    class_name: str
    header: str
    """The response header of the plugin to begin with."""
    muxx: str
    """The versions of muxx it is written for."""


def names_of(given: str, plugins_dir: Path | None = None) -> Names:
    """`rate-note`, `rate_note` and `muxx-rate-note` are one plugin, `rate_note`. A name that cannot be or is taken is refused
    with a `StartError`."""
    name = _PREFIX.sub("", given).replace("-", "_")
    words = name.split("_")
    class_name = "".join(word.capitalize() for word in words)
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME or name in RESERVED or keyword.iskeyword(class_name):
        text = "it begins with a letter, goes on with lower-case letters, digits and single dashes, and is no word that means"
        raise StartError(f"{given!r} cannot be a plugin's name: {text} something else to muxx or Python. Try another one")
    dashed = "-".join(words)
    major, minor, *_ = __version__.split(".")
    header = "X-" + "-".join(word.capitalize() for word in words)
    names = Names(name, f"muxx-{dashed}", f"muxx_{name}", class_name, header, f"muxx>={major}.{minor},<{int(major) + 1}")
    _refuse_taken(names, plugins_dir)
    return names


def _refuse_taken(names: Names, plugins_dir: Path | None) -> None:
    """Nothing of the plugins there are is imported: one of them may be broken."""
    for other in candidates(plugins_dir):
        if other.name == names.name:
            raise StartError(f"there is a plugin {names.name!r} already, from {other.origin}. Take another name")
    try:
        metadata.distribution(names.distribution)
        taken = f"a distribution {names.distribution}"
    except metadata.PackageNotFoundError:
        if util.find_spec(names.package) is None:
            return
        taken = f"a package {names.package}"
    raise StartError(f"{taken} is installed already. Take another name")


def write(names: Names, folder: Path) -> list[Path]:
    """Write every file into `folder`, which must be empty or not be there yet; their paths within it. Nothing is overwritten."""
    values = asdict(names)
    here = resources.files(__name__)
    texts = {Path(Template(place).substitute(values)): here.joinpath(template).read_text() for template, place in FILES}
    try:
        if folder.exists() and any(folder.iterdir()):
            raise StartError(f"{folder} is not empty. Give another folder with --directory, or empty that one", 1)
        for place, text in texts.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            with (folder / place).open("x") as file:
                file.write(Template(text).substitute(values))
    except OSError as error:
        raise StartError(f"{folder} cannot be written ({error.strerror}). Give another folder with --directory", 1) from error
    return list(texts)
