"""What every workflow script does around its one call: logging into the rule's file.

A person's mistake (:class:`UserError`) ends a script with one line. Anything else that goes
wrong leaves its traceback in the log and ends the script with status 1.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryofuse.config import ConfigError
from cryofuse.tables import TableError


class UserError(Exception):
    """A mistake the user can mend: one line with the file or key, what was expected, found."""


@contextmanager
def job_log(path: str | None) -> Iterator[logging.Logger]:
    """Send log records, warnings and the traceback of a failure to a rule's log file.

    Parameters
    ----------
    path
        Log file of the rule, or None for standard error.
    """
    target = Path(path) if path else None
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(target, mode="w") if target else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    logger = logging.getLogger("cryofuse")
    try:
        yield logger
    except (UserError, ConfigError, TableError) as error:
        logger.error("%s", error)
        sys.exit(1)
    except Exception:
        logger.exception("the job failed")
        sys.exit(1)
    finally:
        logging.captureWarnings(False)
        handler.close()
        root.removeHandler(handler)
