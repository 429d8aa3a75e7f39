"""The fixture that the tests of a whole cluster share: booting takes long, so there is one a module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from labsite import THREE, Site


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Bare nodes, the module's SHAPE or three, with S3 a store beside them, and a running master."""
    if shutil.which("psql") is None:
        pytest.fail("these tests connect as an application would: apt-get install postgresql-client")
    shape, s3 = getattr(request.module, "SHAPE", THREE), getattr(request.module, "S3", False)
    site = Site(f"c{os.getpid()}", tmp_path_factory.mktemp("master"), s3=s3, shape=shape)
    try:
        site.up()
        yield site
    finally:
        site.stop_master()
        site.lab("down")
