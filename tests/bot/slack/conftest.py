from typing import Any

import pytest
from street import Street
from workspace import Workspace


@pytest.fixture
def work(street: Street, vendors: Any) -> Workspace:
    return Workspace(street, vendors)
