"""A pytest plugin for nbval: sets parameters (JSON in NBUTILS_TEST_PARAMETERS) by a line appended
to the cell tagged `parameters`.
"""

import json
import os


def pytest_collection_modifyitems(items):
    given = json.loads(os.environ["NBUTILS_TEST_PARAMETERS"])
    lines = "".join(f"\n{name} = {value!r}" for name, value in given.items())
    for item in items:
        if "parameters" in item.cell.metadata.get("tags", []):
            item.cell.source += lines
