"""What a plan was made for, so that it is not taken for more than it holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cryofuse.config import RegionSettings, digest
from cryofuse.logs import UserError

#: The months of a plan are written ``2019-07 to 2019-09``.
_TO = " to "


def plan_scope(region: RegionSettings, first: np.datetime64, stop: np.datetime64) -> dict[str, str]:
    """Return a region's outline and months as lines of a plan.

    Parameters
    ----------
    region
        Region.
    first, stop
        First instant, and first instant after the months.
    """
    outline = region.outline
    if isinstance(outline, str):
        content = hashlib.sha256(Path(outline).read_bytes()).hexdigest()
    else:
        content = digest(outline)
    last = stop.astype("datetime64[M]") - 1
    return {
        "outline": digest([content, region.crs]),
        "months": f"{first.astype('datetime64[M]')}{_TO}{last}",
    }


def check_scope(
    path: str | os.PathLike[str], searched: Mapping[str, str], scope: Mapping[str, str]
) -> None:
    """Refuse a plan that was made for another outline or for fewer months.

    A plan that does not say what it was made for is taken as it is.

    Parameters
    ----------
    path
        File of the plan.
    searched
        Its comment lines.
    scope
        What the run wants (:func:`plan_scope`).

    Raises
    ------
    UserError
        If it does not fit, with what is to be done.
    """
    outline = searched.get("outline")
    if outline and outline != scope["outline"]:
        raise UserError(
            f"{path} was planned for another outline of the region ({outline}, this run's is "
            f"{scope['outline']}); remove it to plan again, or take its line '# outline' out to "
            "use it as it is"
        )
    months = searched.get("months")
    if not months:
        return
    begin, _, end = months.partition(_TO)
    wanted_begin, _, wanted_end = scope["months"].partition(_TO)
    if begin > wanted_begin or end < wanted_end:
        raise UserError(
            f"{path} was planned for {months}, this run wants {scope['months']}; remove it to plan "
            "again, or take its line '# months' out to use it as it is"
        )
