"""Install: wheels into an existing environment. Its torch is never changed, and a failure restores it."""

from mambaport.installing.fit import check_fit, misfits, unfit
from mambaport.installing.install import install_wheels, installed_already, undo
from mambaport.installing.target import check_installed, check_target, queried_names

__all__ = [
    "check_fit",
    "check_installed",
    "check_target",
    "install_wheels",
    "installed_already",
    "misfits",
    "queried_names",
    "undo",
    "unfit",
]
