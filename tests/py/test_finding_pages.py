"""docs/findings: a page for each code that the sources know, and nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "findings"
sys.path.insert(0, str(ROOT / "tools"))

import incidents  # noqa: E402

#: What looks like a code in the sources and is none.
OTHERS = {"cassandra-driver", "kafka-python"}
SECTIONS = ["How it is recognised", "What to do", "Where it is expected", "In the gallery"]


def codes() -> set[str]:
    """Where findings are made, a string of words with hyphens between is a code (or "deadlock")."""
    files = [*ROOT.glob("src/binding/*.c"), *ROOT.glob("python/taut/doctor/*.py")]
    text = "\n".join(path.read_text("utf-8") for path in files)
    found = set(re.findall(r'"((?:[a-z]+-)+[a-z]+|deadlock)"', text))
    return {code for code in found - OTHERS if not code.startswith("taut-")}


def pages() -> dict[str, str]:
    found = {path.stem: path.read_text("utf-8") for path in sorted(PAGES.glob("*.md"))}
    found.pop("README")
    return found


def test_each_code_has_a_page_and_each_page_a_code() -> None:
    assert len(codes()) > 10
    assert sorted(pages()) == sorted(codes())


def test_the_index_lists_each_page_once() -> None:
    index = (PAGES / "README.md").read_text("utf-8")
    assert re.findall(r"^\| \[([a-z-]+)\]\(\1\.md\) \|", index, re.M) == sorted(pages())


@pytest.mark.parametrize("code", sorted(pages()))
def test_a_page_says_what_it_must(code: str) -> None:
    """Its sections, how to ignore it, and programs of the gallery that are found by it."""
    text = pages()[code]
    assert text.startswith(f"# {code}\n")
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS
    assert f'taut.doctor.ignore("{code}@' in text
    programs = re.findall(r"\]\(\.\./\.\./examples/incidents/(\w+)\.py\)", text)
    expected = {e.code for name in programs for e in incidents.gallery([name])[0].expects}
    assert code in expected
