"""Workers of a dask or a ray cluster; docs/clusters.md has the commands that start one.

The pool hands every worker its tasks by name, one at a time, and sends them as bytes. Left to joblib's dask backend, a
search of a problem file with classes of its own hangs: dask pickles by reference what can be, the worker fails to
import a file that was loaded by path, drops its connection and is started anew, for ever; and joblib waits for ever for
a task that ends in an error of dask's own.
"""

from evo_robust.clusters.hiring import choose_staff, hire
from evo_robust.clusters.staff import ClusterStaff

__all__ = ["ClusterStaff", "choose_staff", "hire"]
