import re
from collections.abc import Iterator

import pytest

from tests.servers import ROOT


def cells_about_tests(text: str) -> Iterator[str]:
    """Give the last cell of each row of the tables whose last column is called ``test``."""
    for table in text.split("\n\n"):
        cells = [line.rsplit("|", 2)[1].strip() for line in table.splitlines() if line.startswith("| ")]
        if cells and cells[0] == "test":
            yield from cells[1:]


@pytest.mark.parametrize(("page", "rows"), [("contracts", 40), ("reliability", 10)])
def test_every_row_of_these_tables_names_tests_that_exist_or_says_why_none(page: str, rows: int) -> None:
    cells = list(cells_about_tests((ROOT / "docs" / f"{page}.md").read_text()))
    named = [cell for cell in cells if not cell.startswith(("later", "none: "))]
    assert len(named) > rows
    for cell in named:
        for part in cell.split("; "):
            place, _, names = part.partition(": ")
            tests = re.findall(r"^def test_(\w+)\(", (ROOT / "tests" / place).read_text(), re.MULTILINE)
            assert tests
            assert set(names.split(", ") if names else ()) <= set(tests), part
