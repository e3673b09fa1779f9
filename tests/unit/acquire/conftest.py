"""An archive of five granules, asked with a token from the environment."""

import pytest

from tests.archive import LoopbackArchive
from tests.atl06_files import write_granule
from tests.transfer_site import TOKEN, Site


@pytest.fixture
def site(tmp_path, monkeypatch):
    for name in ("EARTHDATA_USERNAME", "EARTHDATA_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "archive").mkdir()
    files = [write_granule(tmp_path / "archive", number) for number in range(5)]
    with LoopbackArchive(tmp_path / "archive", tokens=(TOKEN,)) as archive:
        archive.add_collection("ATL06", "007", files)
        yield Site(archive, tmp_path)
