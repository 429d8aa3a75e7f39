"""The fixture that the tests of a whole cluster share: booting takes long, so there is one a module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from labsite import THREE, Site


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Nodes, the module's SHAPE or three, bare unless PREPARED, with S3 a store beside them, and a running master."""
    if shutil.which("psql") is None:
        pytest.fail("these tests connect as an application would: apt-get install postgresql-client")
    asked = request.module
    site = Site(
        f"c{os.getpid()}",
        tmp_path_factory.mktemp("master"),
        s3=getattr(asked, "S3", False),
        prepared=getattr(asked, "PREPARED", False),
        shape=getattr(asked, "SHAPE", THREE),
    )
    try:
        site.up()
        yield site
    finally:
        site.stop_master()
        site.lab("down")
