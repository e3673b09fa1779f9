"""Harmony on loopback: routes for the archive that take jobs, tell of them and hold subsets.

The answers have the form of the service's own: job status with progress, errors and pages of
links, errors as JSON with a code and a description. Subsets are made when a job is sent, with
h5py alone.
"""

import json
import re
import threading
import uuid
from email import policy
from email.parser import BytesParser
from pathlib import Path
from urllib.parse import urlencode

import h5py
import numpy as np

from tests.archive import Response

BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
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
        keep = {}
        for beam in BEAMS:
            segments = file.get(f"{beam}/land_ice_segments")
            if segments is not None and "latitude" in segments:
                keep[beam] = in_box(segments["longitude"][:], segments["latitude"][:], box)
                total += int(keep[beam].sum())

        def copy(name, item):
            if not isinstance(item, h5py.Dataset):
                return
            if variables is not None and f"/{name}" not in variables:
                return
            beam, _, rest = name.partition("/")
            values = item[()]
            if beam in BEAMS:
                if not rest.startswith("land_ice_segments/"):
                    return
                if not keep[beam].any() and empty == "absent":
                    return
                values = values[keep[beam]]
            made = out.create_dataset(name, data=values, dtype=item.dtype)
            for key, value in item.attrs.items():
                if key not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME"):
                    made.attrs[key] = value

        file.visititems(copy)
        for beam in BEAMS:
            if beam in out:
                for key, value in file[beam].attrs.items():
                    out[beam].attrs[key] = value
    return total


class HarmonyService:
    """The service for one collection, with faults on demand.

    Parameters
    ----------
    archive
        The loopback archive that carries the routes.
    folder
        Where subsets are written.
    granules
        Concept id to file.
    collection
        Concept id of the collection.
    variables
        Datasets that may be chosen; None for a service that doesn't choose.
    polls
        How often a job is asked after before it is over.
    page
        Links of a page at most.
    empty
        What becomes of beams without rows: ``absent`` or ``empty``.
    """

    def __init__(
        self, archive, folder, granules, collection, variables=None, polls=2, page=2000,
        empty="absent",
    ):  # fmt: skip
        self.archive, self.folder = archive, Path(folder)
        self.granules, self.collection = dict(granules), collection
        self.variables, self.polls, self.page, self.empty = variables, polls, page, empty
        self.jobs, self.submitted, self.cancelled, self.tokens = {}, [], [], []
        self.faults = {}
        self._lock = threading.Lock()
        job = r"/jobs/(?P<job>[0-9a-f-]{36})"
        for method, pattern, handler in (
            ("GET", r"/capabilities", self._capabilities),
            ("POST", r"/(?P<collection>[^/]+)/ogc-api-coverages/1\.0\.0/.*", self._submit),
            ("GET", job, self._status),
            ("GET", job + "/cancel", self._cancel),
            ("GET", r"/service-results/.*", self._result),
        ):
            archive.add_route(method, pattern, self._guarded(handler))

    def fault(self, kind, match="", times=None):
        """Have a fault from now on, some times or always, where ``match`` is found.

        It is looked for in the name of a granule or the path of a request.

        Kinds: ``no_service``, ``unknown_collection``, ``refused`` (the job, 400),
        ``unauthorized`` (401), ``login`` (leads on to a log-in page), ``unavailable`` (503 to
        polling), ``no_json`` (polling answers with a page), ``job_failed``, ``job_paused``,
        ``granule_failed``, ``no_data``, ``endless``, ``hostile_link``, ``whole_link``,
        ``damaged`` (the subset's bytes).
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
        """Answer only those who send a token, as the service does."""

        def answer(request):
            token = request.headers.get("Authorization")
            self.tokens.append(token)
            if self._due("login", request.path):
                return Response(303, {"Location": "http://127.0.0.1:9/oauth/authorize"}, b"")
            if token is None or self._due("unauthorized", request.path):
                return _error(401, "Unauthorized", "You are not authorized")
            return handler(request)

        return answer

    def _capabilities(self, request):
        if self._due("unknown_collection"):
            return _error(404, "NotFound", "No matching collections found.")
        cuts = not self._due("no_service")
        return _json(
            {
                "conceptId": self.collection,
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
                return _error(
                    400, "RequestValidationError", f"Coverages were not found: {unknown}"
                )
        job = str(uuid.uuid4())
        done = {"polls": self.polls, "links": [], "errors": [], "count": len(ids)}
        done["state"] = "successful"
        box = _box(form["subset"])
        chosen = None if variables == ["all"] else {"/" + v.lstrip("/") for v in variables}
        for number, concept in enumerate(ids, 1):
            source = self.granules[concept]
            if self._due("granule_failed", source.name):
                done["errors"].append(
                    {
                        "url": f"https://data.example/ATLAS/{source.name}",
                        "message": "WorkItem failed: L2 Trajectory Subsetter failed with error",
                    }
                )
                done["state"] = "complete_with_errors"
                continue
            stem = source.name.removesuffix(".h5")
            target = self.folder / job / f"{number}" / f"{stem}_subsetted.h5"
            target.parent.mkdir(parents=True)
            rows = cut_granule(source, target, box, chosen, self.empty)
            if not rows or self._due("no_data", source.name):
                continue
            if self._due("damaged", source.name):
                target.write_bytes(target.read_bytes()[:-100])
            place = f"{self.archive.url}/service-results/{target.relative_to(self.folder)}"
            if self._due("hostile_link", source.name):
                place = f"{self.archive.url}/service-results/x/..%2f..%2f..%2fetc%2fpasswd"
            if self._due("whole_link", source.name):
                place = f"{self.archive.url}/data/{source.name}"
            done["links"].append(
                {
                    "href": place,
                    "title": target.name,
                    "type": "application/x-hdf5",
                    "rel": "data",
                    "bbox": list(box),
                    "temporal": {"start": CREATED, "end": CREATED},
                }
            )
        for kind, state in (("job_failed", "failed"), ("job_paused", "paused")):
            if self._due(kind):
                done |= {"state": state, "links": []}
        if self._due("endless"):
            done["polls"] = 10**9
        self.jobs[job] = done
        return Response(303, {"Location": f"/jobs/{job}"}, b"")

    def _status(self, request):
        known = self.jobs.get(request.path.split("/")[2])
        if known is None:
            return _error(404, "NotFoundError", "Unable to find job")
        if self._due("unavailable"):
            return Response(503, {"Retry-After": "0"}, b"")
        if self._due("no_json"):
            return Response(200, {"Content-Type": "text/html"}, b"<html>Earthdata Login</html>")
        over = known["polls"] <= 0
        known["polls"] -= 1
        number = int(request.query.get("page", ["1"])[0])
        size = min(int(request.query.get("limit", ["2000"])[0]), self.page)
        links = known["links"] if over else []
        if known["polls"] > 10**6:
            links = known["links"][:1]
        part = links[(number - 1) * size : number * size]
        address = f"{self.archive.url}{request.path}"
        part = [
            *part,
            {
                "href": f"{address}?{urlencode({'page': number, 'limit': size})}",
                "title": "The current page",
                "type": "application/json",
                "rel": "self",
            },
        ]
        return _json(
            {
                "username": "someone",
                "status": known["state"] if over else "running",
                "message": "The job is being processed" if not over else "The job is over",
                "progress": 100 if over else 40,
                "createdAt": CREATED,
                "updatedAt": CREATED,
                "dataExpiration": CREATED,
                "links": part,
                "request": f"{self.archive.url}/{self.collection}",
                "numInputGranules": known["count"],
                "jobID": request.path.split("/")[2],
                "errors": known["errors"] if over else [],
            }
        )

    def _cancel(self, request):
        self.cancelled.append(request.path.split("/")[2])
        return _json({"status": "canceled"})

    def _result(self, request):
        path = self.folder / request.path.removeprefix("/service-results/")
        if not path.resolve().is_relative_to(self.folder.resolve()) or not path.is_file():
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


def _json(content, status=200):
    return Response(status, {"Content-Type": "application/json"}, json.dumps(content).encode())


def _error(status, code, text):
    return _json({"code": f"harmony.{code}", "description": f"Error: {text}"}, status)
