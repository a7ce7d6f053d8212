from pathlib import Path

import pytest

from shared.errors import Misconfigured
from shared.settings import load_settings, settings_table

README = Path(__file__).parent.parent.parent / "README.md"


def test_every_setting_has_a_default() -> None:
    assert load_settings().worker.slots == 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("REDUXQ_PORT", "1", "unknown setting REDUXQ_PORT"),
        ("REDUXQ_API__PROT", "1", "REDUXQ_API__PROT is no setting"),
        ("REDUXQ_API__PORT", "99999", "REDUXQ_API__PORT: .*65535, not '99999'"),
        ("REDUXQ_MODEL__PRECISION", "int8", "REDUXQ_MODEL__PRECISION: .*'bfloat16'.*, not 'int8'"),
        ("REDUXQ_STORAGE__LINK_SECONDS", "604801", "REDUXQ_STORAGE__LINK_SECONDS"),
        ("REDUXQ_RECORDS__URL", "localhost", "REDUXQ_RECORDS__URL: must look like redis://"),
        ("REDUXQ_STORAGE__ACCESS_KEY", "key", "REDUXQ_STORAGE__SECRET_KEY: belongs to ACCESS_KEY"),
        ("REDUXQ_JOBS__LEASE_SECONDS", "soon", "REDUXQ_JOBS__LEASE_SECONDS"),
        ("REDUXQ_EGRESS__ALLOWED_NETWORKS", "10.1.0.0/16", "egress.*a list is JSON"),
        ("REDUXQ_EGRESS__ALLOWED_NETWORKS", '["10.1.0.1/16"]', "REDUXQ_EGRESS__ALLOWED_NETWORKS__0: .*'10.1.0.1/16'"),
        ("REDUXQ_EGRESS__PROXY", "https://host:4750", "REDUXQ_EGRESS__PROXY: must look like http://host:4750"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=message):
        load_settings()


def test_durations_are_given_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDUXQ_API__WAIT_SECONDS", "1.5")
    assert load_settings().api.wait_seconds.total_seconds() == 1.5


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDUXQ_RECORDS__URL", "redis://:hush@localhost/0")
    assert "hush" not in repr(load_settings())


@pytest.mark.parametrize("name", ["REDUXQ_STORAGE__SECRETKEY", "REDUXQ_RECORDS__URL", "REDUXQ_EGRESS__PROXY"])
def test_an_error_does_not_show_a_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hush")
    with pytest.raises(Misconfigured) as caught:
        load_settings()
    assert "hush" not in str(caught.value)


def test_the_readmes_table_is_true() -> None:
    assert settings_table() in README.read_text(), "run `reduxq settings` and put its table into README.md"
