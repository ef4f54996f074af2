"""Stands for the package `benchmarks` where one of its commands runs as a script: ``python benchmarks/latency.py``.

Python then looks for packages in the script's folder, and finds this file there. It puts the checkout in the folder's
place, so that the commands and all that they measure are found wherever they are started, and gives way to the package.
"""

import importlib
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
del sys.modules[__name__]
importlib.import_module(__name__)
