"""A model that can read and talk."""

import pytest
import tiny_talker


@pytest.fixture(scope="session")
def talker(tmp_path_factory):
    return tiny_talker.make(tmp_path_factory.mktemp("talker"))
