"""Workers of a dask or a ray cluster; docs/clusters.md has the commands that start one.

The pool sends tasks to each worker itself, one at a time, as bytes. With joblib's dask backend, a search with classes
from a problem file would hang. Dask pickles by reference where it can; the worker fails to import a file that was
loaded by path, drops its connection and is restarted, without end. And joblib waits for ever for a task that ends with
one of dask's own errors.
"""

from evo_robust.clusters.hiring import choose_staff, hire
from evo_robust.clusters.staff import ClusterStaff

__all__ = ["ClusterStaff", "choose_staff", "hire"]
