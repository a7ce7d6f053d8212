"""Where the client finds its service and key."""

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reduxq import cli
from reduxq.config import Access, Misconfigured, config_file, find_access, save_access
from reduxq.errors import Unauthorized
from shared.settings import load_settings
from tests.scripted import Answer, refusal, scripted

KEPT = Access("https://images.example.org", 'a "quoted" key')


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "REDUXQ_URL", "REDUXQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_what_was_kept_is_found_and_only_its_owner_can_read_it(home: Path) -> None:
    assert save_access(KEPT) == home / ".config" / "reduxq" / "config.toml" == config_file()
    assert stat.S_IMODE(config_file().stat().st_mode) == 0o600
    assert find_access() == KEPT


def test_the_folder_of_configurations_may_be_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "there"))
    assert save_access(KEPT) == tmp_path / "there" / "reduxq" / "config.toml"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_can_read_is_refused_with_the_way_to_mend_it(mode: int) -> None:
    save_access(KEPT).chmod(mode)
    with pytest.raises(Misconfigured, match=f"chmod 600 {config_file()}"):
        find_access()


def test_a_file_that_cannot_be_read_is_named() -> None:
    save_access(KEPT).write_text("url = ")
    with pytest.raises(Misconfigured, match=r"config\.toml"):
        find_access()


def test_what_is_said_goes_before_the_environment_and_that_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    save_access(KEPT)
    monkeypatch.setenv("REDUXQ_URL", "http://from-environment")
    monkeypatch.setenv("REDUXQ_API_KEY", "from environment")
    assert find_access() == ("http://from-environment", "from environment")
    assert find_access("http://said", "said") == ("http://said", "said")


def test_the_key_of_the_file_goes_to_no_other_service(monkeypatch: pytest.MonkeyPatch) -> None:
    save_access(KEPT)
    monkeypatch.setenv("REDUXQ_URL", "https://elsewhere.example.org")
    with pytest.raises(Unauthorized, match="elsewhere"):
        find_access()


def test_a_missing_key_is_said_with_what_to_do() -> None:
    with pytest.raises(Unauthorized, match="set REDUXQ_API_KEY, or run `reduxq login`"):
        find_access()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "https://", "http://[bad"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="must look like"):
        find_access(url, "key")


def test_the_customers_variables_are_no_unknown_settings_of_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDUXQ_URL", "http://x")
    monkeypatch.setenv("REDUXQ_API_KEY", "x")
    load_settings()


def test_login_keeps_a_key_that_works() -> None:
    with scripted(Answer(200, {"aiRecords": [], "nextCursor": None})) as script:
        done = CliRunner().invoke(cli.customers, ["login", "--url", script.url], input="secret\n")
    assert done.exit_code == 0, done.output
    assert find_access() == (script.url, "secret")
    assert script.asked[0].headers["api-key"] == "secret"
    assert "secret" not in done.output


def test_login_keeps_no_key_that_is_refused() -> None:
    with scripted(refusal(401, "HTTP_EXCEPTION", "The API key is not valid")) as script:
        done = CliRunner().invoke(cli.customers, ["login", "--url", script.url], input="secret\n")
    assert isinstance(done.exception, Unauthorized)
    assert not config_file().exists()
