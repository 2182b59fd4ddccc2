import pytest

from tests.view.scene import make_imagined, make_real


@pytest.fixture(scope="session")
def real():
    """What really happened, in three small views and five steps."""
    return make_real(num_steps=5, size=32)


@pytest.fixture(scope="session")
def imagined(real):
    return make_imagined(real)
