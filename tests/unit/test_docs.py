import re

from tests.servers import ROOT

PAGE = (ROOT / "docs" / "contracts.md").read_text()
CELLS = "\n".join(line.rsplit("|", 2)[1] for line in PAGE.splitlines() if line.startswith("| "))


def test_every_test_that_a_row_names_exists() -> None:
    sources = (path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    tests = {name for source in sources for name in re.findall(r"^def test_(\w+)\(", source, re.MULTILINE)}
    named = re.findall(r"\b(?!test_)[a-z0-9]+(?:_[a-z0-9]+){2,}(?:_…)?(?!\.py)\b", CELLS)
    assert len(named) > 30
    for name in named:
        assert name in tests or any(test.startswith(name.removesuffix("…")) for test in tests if "…" in name), name


def test_every_file_that_a_row_names_exists() -> None:
    named = re.findall(r"[\w/]+/test_\w+\.py", CELLS)
    assert len(named) > 30
    for name in named:
        assert (ROOT / "tests" / name).exists(), name
