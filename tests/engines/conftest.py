"""One small world for the runs against the archive, and one undisturbed run of its quarter."""

import pytest

from tests.earthdata import CACHE, MONTHS, QUARTER, Project, Source


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
