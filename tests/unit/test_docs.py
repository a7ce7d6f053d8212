import re

from tests.servers import ROOT


def test_every_row_of_the_contracts_names_tests_that_exist_or_says_later() -> None:
    rows = [line for line in (ROOT / "docs" / "contracts.md").read_text().splitlines() if line.startswith("| ")]
    cells = [row.rsplit("|", 2)[1].strip() for row in rows]
    cells = [cell for cell in cells if cell != "test" and not cell.startswith("later")]
    assert len(cells) > 40
    for cell in cells:
        for part in cell.split("; "):
            place, _, names = part.partition(": ")
            tests = re.findall(r"^def test_(\w+)\(", (ROOT / "tests" / place).read_text(), re.MULTILINE)
            assert tests
            assert set(names.split(", ") if names else ()) <= set(tests), part
