"""A model that can read and talk."""

import pytest
import small_demo


@pytest.fixture(scope="session")
def talker(tmp_path_factory):
    return small_demo.make(tmp_path_factory.mktemp("talker"))
