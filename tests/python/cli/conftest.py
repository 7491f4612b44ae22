"""A model that can read and talk, and a cache of the test's own."""

import pytest
import tiny_talker


@pytest.fixture(scope="session")
def talker(tmp_path_factory):
    return tiny_talker.make(tmp_path_factory.mktemp("talker"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESTRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
