"""The guide's tutorial, followed to the letter in an empty folder: it ends with a wheel that a running gateway has loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_kit import GUIDE, TUTORIAL, Block, blocks
from workshop_kit import Workshop, written

STEPS = [block for block in blocks(page=GUIDE) if block.section == TUTORIAL]


def as_typed(block: Block) -> str:
    """What the reader does at this block: types it, or puts it into the file that the sentence above it names."""
    if block.language == "bash":
        return block.text
    assert block.language == "python", block.place
    place = re.search(r"Put this into `([\w./]+)`:$", block.introduced)
    assert place is not None, f"{block.place}: no sentence says which file this is"
    return written(place[1], block.text)


@pytest.mark.timeout(300)
def test_the_tutorial_leads_from_an_empty_folder_to_a_wheel_that_a_running_gateway_has_loaded(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    shown = workshop.run("\n".join(f"echo '── {block.place}'\n{as_typed(block)}" for block in STEPS))
    said = re.findall(r"HELLO!|Hello!", shown)
    assert said == ["HELLO!", "Hello!", "HELLO!"], shown
    assert len(re.findall(r"=+ \d+ passed in", shown)) == 2, "as it was written, and as the reader changed it"
    listed = re.findall(r"^shout +0\.1\.0 +\d+ +(.*?)  +muxx-shout +on$", shown, re.M)
    assert listed == ["pre_request, post_response", "pre_request, on_chunk"]
    assert re.search(r"^on_chunk +1 +shout +-$", shown, re.M)

    [package] = workshop.folder.glob(".venv/lib/python3*/site-packages/muxx_shout")
    assert (package / "__init__.py").read_text() == (workshop.folder / "muxx-shout/src/muxx_shout/__init__.py").read_text()
    assert [path.name for path in workshop.folder.glob("dist/*")] == ["muxx_shout-0.1.0-py3-none-any.whl"]
    checked = workshop.run(". .venv/bin/activate\ncd muxx-shout\nruff check .\nruff format --check .\nmypy")
    assert "Success: no issues found" in checked


def test_the_tutorial_is_commands_and_whole_files() -> None:
    assert {block.language for block in STEPS} == {"bash", "python"}
    assert "pip wheel" in "".join(block.text for block in STEPS)
