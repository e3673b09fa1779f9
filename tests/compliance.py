"""What the IOOS compliance checker says of a NetCDF file, for tests of products."""

import warnings

#: What the checker (6.1) holds against every file with polygons: it compares the data's dimensions
#: with that of the nodes, where the conventions ask for that of the geometries, and the number of
#: rings with 1. :func:`check_geometry` tests both rules as they are meant.
MISTAKEN = (
    "does not include geometry dimension 'node' used in geometry variable 'footprint'",
    "part_node_count variable part_node_count must have the same single dimension",
)


def list_failures(path, *suites):
    """Return by suite what the checker holds against a file, with the weight it gives (3: high)."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checker itself
        from compliance_checker.suite import CheckSuite

        CheckSuite.load_all_available_checkers()
        checks = CheckSuite()
        with checks.load_dataset(str(path)) as dataset:
            for suite in suites:
                results, errors = checks.run_all(dataset, [suite])[suite]
                assert not errors and len(results) > 20
                found[suite] = [
                    (result.weight, text)
                    for result in results
                    if result.value is False
                    or (isinstance(result.value, tuple) and result.value[0] < result.value[1])
                    for text in result.msgs or [result.name]
                ]
    return found


def list_faults(failures):
    """Return what the checker holds against a file under CF, but for its own mistakes."""
    said = [text for _, text in failures["cf:1.11"]]
    return [text for text in said if not any(known in text for known in MISTAKEN)]


def check_geometry(file):
    """Hold an open netCDF4 file against CF's rules of geometries that the checker mistakes."""
    container = file["footprint"]
    (instances,) = file[container.node_count].dimensions
    parents = [v for v in file.variables.values() if "geometry" in v.ncattrs()]
    assert {v.name for v in parents} >= {"predicted_mass", "observed_change", "status", "land_area"}
    assert all(instances in v.dimensions for v in parents)
    rings = file[container.part_node_count], file[container.interior_ring]
    assert rings[0].dimensions == rings[1].dimensions and rings[0].ndim == 1
    assert file[container.node_count][:].sum() == rings[0][:].sum()
    named = set(container.node_coordinates.split())
    assert len({file[name].dimensions for name in named}) == 1
    assert file["lat"].nodes in named and file["lon"].nodes in named
