"""What holds for every test: the Hypothesis profiles, `--soak`, and a home that is nobody's.

The default profile is derandomised, so a failure in CI is a failure here. `make soak` takes the deep one, which draws
anew on every run and prints the blob that repeats a failure.
"""

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    derandomize=True,
    max_examples=50,
    deadline=None,
    # Drawing a fleet is slow by nature, and its size is bounded by the strategy that draws it.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "deep",
    max_examples=2_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write what the stories show; then read the diff")
    parser.addoption("--soak", action="store_true", help="deep Hypothesis profile, and the tests marked soak")


def pytest_configure(config: pytest.Config) -> None:
    if sys.flags.optimize:
        raise pytest.UsageError("python -O strips the assertions these tests rely on")
    # A profile named with --hypothesis-profile is the caller's choice, and wins.
    if not config.getoption("--hypothesis-profile", default=None):
        settings.load_profile("deep" if config.getoption("--soak") else "default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        return
    skip = pytest.mark.skip(reason="needs --soak")
    for item in items:
        if "soak" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _nobodys_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the keys of whoever runs the tests out of their reach, also in processes that tests start."""
    before = os.environ.get("KLAL_HOME")
    os.environ["KLAL_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    if before is None:
        del os.environ["KLAL_HOME"]
    else:
        os.environ["KLAL_HOME"] = before
