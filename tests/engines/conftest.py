"""What tests of engines share: a world behind the archive with one undisturbed run; Spark."""

import pytest

from tests.conftest import skip_without
from tests.earthdata import CACHE, MONTHS, QUARTER, Project, Source
from tests.spark_cluster import lacking, start_cluster


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """The files that the archive serves."""
    return Source(tmp_path_factory.mktemp("served")).write()


@pytest.fixture(scope="session")
def undisturbed(source, tmp_path_factory):
    """A project in which three months were fetched and cut without any trouble."""
    with source.serve(*MONTHS) as archive:
        project = Project(tmp_path_factory.mktemp("undisturbed"), archive, period=QUARTER)
        project.run("download", "subset")
    served = {path.name: path.read_bytes() for path in source.granules(*MONTHS)}
    assert {name: path.read_bytes() for name, path in project.cached.items()} == served
    assert (project.folder / CACHE / "mascons" / "jpl.nc").is_file()
    return project


@pytest.fixture(scope="session")
def spark_is_there():
    """Spark and Java; without them tests skip, but never in CI."""
    reason = lacking()
    if reason:
        skip_without(reason)


@pytest.fixture(scope="session")
def spark_master(spark_is_there, tmp_path_factory):
    """The address of a standalone master on loopback with one worker of two cores."""
    with start_cluster(tmp_path_factory.mktemp("spark")) as master:
        yield master
