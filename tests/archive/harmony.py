"""Harmony on loopback: routes for the archive that take jobs, tell of them and hold subsets.

The answers have the form of the service's own: job status with progress, errors and pages of
links, errors as JSON with a code and a description. Subsets are made when a job is sent, with
h5py alone.
"""

import math
import re
import threading
import uuid
from email import policy
from email.parser import BytesParser
from pathlib import Path
from urllib.parse import unquote

import h5py

from tests.archive import Response

BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
#: A granule that no job asks for.
STRANGER = "ATL06_20200207192251_13870814_006_01.h5"
CREATED = "2026-11-23T05:00:00.000Z"


def in_box(longitude, latitude, box):
    """Return which positions lie in a box (west, south, east, north; west > east over ±180°)."""
    west, south, east, north = box
    if west < east:
        across = (longitude >= west) & (longitude <= east)
    else:
        across = (longitude >= west) | (longitude <= east)
    return across & (latitude >= south) & (latitude <= north)


def cut_granule(source, target, box, variables=None, empty="absent"):
    """Write a granule's rows in a box, of all datasets or some; return how many rows that is.

    As at the archive every beam is cut by itself, and one without rows is left out, or (with
    ``empty="empty"``) its datasets are kept without rows. Datasets that hold no rows of
    segments are copied whole.
    """
    total = 0
    with h5py.File(source) as file, h5py.File(target, "w") as out:
        for name, group in file.items():
            if name not in BEAMS:
                _copy_whole(group, out, variables)
                continue
            segments = group.get("land_ice_segments")
            if segments is None:
                continue
            keep = in_box(segments["longitude"][:], segments["latitude"][:], box)
            total += int(keep.sum())
            if not keep.any() and empty == "absent":
                continue
            _copy_rows(segments, keep, out.create_group(f"{name}/land_ice_segments"), variables)
            out[name].attrs.update(group.attrs)
    return total


def _copy_whole(group, out, variables):
    """Copy a group without rows of segments, or the datasets chosen of it."""
    if variables is None:
        out.copy(group, group.name)
        return
    for place in variables:
        if place.startswith(f"{group.name}/") and place in group.file:
            out.copy(group.file[place], place)


def _copy_rows(segments, keep, out, variables):
    """Copy rows of the datasets of a beam; of their attributes the one that readers need."""

    def copy(place, item):
        if not isinstance(item, h5py.Dataset):
            return
        if variables is not None and item.name not in variables:
            return
        made = out.create_dataset(place, data=item[()][keep])
        if "_FillValue" in item.attrs:
            made.attrs["_FillValue"] = item.attrs["_FillValue"]

    segments.visititems(copy)


class HarmonyService:
    """The service beside an archive, for its granules of ATL06.

    Statuses, pages of HTML, silence and the faults of bodies are the archive's own faults, with
    the paths ``/capabilities``, ``/jobs/…`` and ``/service-results/…_subsetted.h5``.

    Parameters
    ----------
    archive
        The loopback archive that carries the routes.
    folder
        Where subsets are written.
    variables
        Datasets that may be chosen; None for a service that doesn't choose.
    polls
        How often a job is asked after before it is over.
    page
        Links of a page at most.
    empty
        What becomes of beams without rows: ``absent`` or ``empty``.
    """

    def __init__(self, archive, folder, *, variables=None, polls=2, page=2000, empty="absent"):
        self.archive, self.folder = archive, Path(folder)
        self.variables, self.polls, self.page, self.empty = variables, polls, page, empty
        self.jobs, self.submitted, self.cancelled, self.tokens = {}, [], [], set()
        self.faults = {}
        self._lock = threading.Lock()
        job = r"/jobs/(?P<job>[0-9a-f-]{36})"
        for method, pattern, handler in (
            ("GET", r"/capabilities", self._capabilities),
            ("POST", r"/(?P<collection>[^/]+)/ogc-api-coverages/1\.0\.0/.*", self._submit),
            ("GET", job, self._status),
            ("GET", job + "/cancel", self._cancel),
            ("GET", r"/service-results/(?P<place>.*)", self._result),
        ):
            archive.add_route(method, pattern, self._guarded(handler))

    @property
    def root_url(self):
        """Address of the service, by the name that harmony-py has for this machine."""
        return self.archive.base_url.replace("127.0.0.1", "localhost")

    def fault(self, kind, match="", times=None):
        """Have a fault from now on, some times or always, of granules with ``match`` in the name.

        Kinds: ``no_service``, ``login`` (leads on to a log-in page), ``refused`` (the job is),
        ``job_failed``, ``job_paused``, ``endless`` (one granule is ready), ``granule_failed``,
        ``no_data``, ``hostile_link`` (a name that leads out of the folder), ``whole_link`` (to
        the granule itself), ``stranger_link`` (to a subset of a granule that is not the job's).
        """
        self.faults[kind] = {"match": match, "times": times}

    def _due(self, kind, name=""):
        with self._lock:
            fault = self.faults.get(kind)
            if fault is None or not re.search(fault["match"], name):
                return False
            if fault["times"] is not None:
                if fault["times"] == 0:
                    return False
                fault["times"] -= 1
            return True

    def _guarded(self, handler):
        """Answer only those who send a good token, as the service does."""

        def answer(request):
            self.tokens.add(request.headers.get("Authorization"))
            if self._due("login", request.path):
                return Response.redirect(f"{self.archive.base_url}/login")
            if request.token is None:
                return _error(401, "Unauthorized", "You are not authorized")
            return handler(request)

        return answer

    def _capabilities(self, request):
        cuts = not self._due("no_service")
        return Response.of_json(
            {
                "conceptId": request.query["collectionid"][0],
                "shortName": "ATL06",
                "variableSubset": cuts and self.variables is not None,
                "bboxSubset": cuts,
                "shapeSubset": cuts,
                "concatenate": False,
                "reproject": False,
                "outputFormats": ["application/x-hdf5"] if cuts else [],
                "services": [{"name": "sds/trajectory-subsetter"}] if cuts else [],
                "variables": [{"name": name} for name in self.variables or ()],
                "capabilitiesVersion": "2",
            }
        )

    def _submit(self, request):
        form = _form(request)
        self.submitted.append(form)
        ids = ",".join(form["granuleId"]).split(",")
        variables = ",".join(form["variable"]).split(",")
        if self._due("refused"):
            return _error(400, "RequestValidationError", "the request could not be understood")
        if variables != ["all"]:
            if self.variables is None:
                return _error(
                    422, "UnsupportedOperation", "the requested combination: variable subsetting"
                )
            unknown = [name for name in variables if name not in self.variables]
            if unknown:
                return _error(400, "RequestValidationError", f"Coverages were not found: {unknown}")
        entries = [self.archive.catalogue.identified(concept) for concept in ids]
        sources = [entry.path for entry in entries if entry is not None]
        if not sources:
            return _error(400, "RequestValidationError", "No matching granules found.")
        job = str(uuid.uuid4())
        done = {"polls": self.polls, "links": [], "errors": [], "count": len(sources)}
        done["state"] = "successful"
        box = _box(form["subset"])
        chosen = None if variables == ["all"] else {"/" + v.lstrip("/") for v in variables}
        for number, source in enumerate(sources, 1):
            if self._due("granule_failed", source.name):
                failed = "WorkItem failed: L2 Trajectory Subsetter failed with error"
                url = self.archive.url(source.name)
                done["errors"].append({"url": url, "message": failed})
                done["state"] = "complete_with_errors"
                continue
            target = self.folder / job / f"{number}" / f"{source.stem}_subsetted.h5"
            target.parent.mkdir(parents=True)
            rows = cut_granule(source, target, box, chosen, self.empty)
            if not rows or self._due("no_data", source.name):
                continue
            done["links"].append(self._link(source.name, target, box))
        for kind, state in (("job_failed", "failed"), ("job_paused", "paused")):
            if self._due(kind):
                done |= {"state": state, "links": []}
        if self._due("endless"):
            done |= {"polls": math.inf, "links": done["links"][:1]}
        self.jobs[job] = done
        return Response(303, {"Location": f"/jobs/{job}"})

    def _link(self, granule, target, box):
        """Return the link to a subset, or to something else where a fault has it."""
        place = f"{self.archive.base_url}/service-results/{target.relative_to(self.folder)}"
        if self._due("hostile_link", granule):
            place = f"{self.archive.base_url}/service-results/x/..%2f..%2f{target.name}%2f..%2fx"
        if self._due("whole_link", granule):
            place = self.archive.url(granule)
        if self._due("stranger_link", granule):
            place = f"{place.rpartition('/')[0]}/{STRANGER.replace('.h5', '_subsetted.h5')}"
        return {
            "href": place,
            "title": target.name,
            "type": "application/x-hdf5",
            "rel": "data",
            "bbox": list(box),
            "temporal": {"start": CREATED, "end": CREATED},
        }

    def _status(self, request):
        job = request.match["job"]
        known = self.jobs.get(job)
        if known is None:
            return _error(404, "NotFoundError", f"Unable to find job {job}")
        endless = known["polls"] == math.inf
        with self._lock:
            over = known["polls"] <= 0
            known["polls"] -= 1
        number = int(request.query.get("page", ["1"])[0])
        size = min(int(request.query.get("limit", ["2000"])[0]), self.page)
        links = known["links"][(number - 1) * size : number * size] if over or endless else []
        address = f"{self.archive.base_url}{request.path}"
        page = {
            "href": f"{address}?page={number}&limit={size}",
            "title": "The current page",
            "type": "application/json",
            "rel": "self",
        }
        return Response.of_json(
            {
                "username": "someone",
                "status": known["state"] if over else "running",
                "message": "The job is over" if over else "The job is being processed",
                "progress": 100 if over else 40,
                "createdAt": CREATED,
                "updatedAt": CREATED,
                "dataExpiration": CREATED,
                "links": [*links, page],
                "request": f"{self.archive.base_url}/ogc-api-coverages",
                "numInputGranules": known["count"],
                "jobID": job,
                "errors": known["errors"] if over else [],
            }
        )

    def _cancel(self, request):
        self.cancelled.append(request.match["job"])
        return Response.of_json({"status": "canceled"})

    def _result(self, request):
        path = (self.folder / unquote(request.match["place"])).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            return _error(404, "NotFoundError", "no such result")
        return Response(200, {"Content-Type": "application/x-hdf5"}, path)


def _form(request):
    """Return the fields of a form that was sent in parts."""
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    message = BytesParser(policy=policy.HTTP).parsebytes(head + request.body)
    fields = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="Content-Disposition")
        fields.setdefault(name, []).append(part.get_payload(decode=True).decode())
    return fields


def _box(subset):
    """Return the box of the parameters ``lat(s:n)`` and ``lon(w:e)``."""
    found = dict(re.fullmatch(r"(lat|lon)\((.*)\)", text).groups() for text in subset)
    south, north = (float(edge) for edge in found["lat"].split(":"))
    west, east = (float(edge) for edge in found["lon"].split(":"))
    return west, south, east, north


def _error(status, code, text):
    return Response.of_json({"code": f"harmony.{code}", "description": f"Error: {text}"}, status)
