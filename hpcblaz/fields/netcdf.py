"""All that a store or a compressed file holds, decompressed into one NetCDF file."""

import os
import secrets
from pathlib import Path

from hpcblaz.errors import StorageError
from hpcblaz.fields.open_field import has_variables, open_dataset, optional
from hpcblaz.fields.storage import load
from hpcblaz.mpi.atomic import storage_errors


def write_netcdf(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> list[str]:
    """Write a NetCDF file, whole or not at all.

    Fields are decompressed one at a time, so the largest must fit in memory.

    Parameters
    ----------
    path : str or os.PathLike
        A Zarr store, or a file of :func:`hpcblaz.save`.
    target : str or os.PathLike

    Returns
    -------
    list of str
        The variables of the file.

    Raises
    ------
    StorageError, FileFormatError
        If one cannot be read or the other cannot be written.
    MissingDependencyError
        If xarray or what writes NetCDF is not installed.
    """
    xarray = optional("xarray", f"writing {target}")
    optional("netCDF4", f"writing {target}")
    target = Path(target)
    if has_variables(path):
        dataset = open_dataset(path)
    else:
        a = load(path)
        name = Path(path).name.split(".")[0] or "field"
        attributes = {key: value for key, value in a.attributes.items() if isinstance(value, (str, int, float))}
        dims = [f"axis_{i}" for i in range(a.ndim)]
        dataset = xarray.Dataset({name: (dims, a.decompress(), attributes)})
    temporary = target.parent / f".hpcblaz-{secrets.token_hex(8)}.tmp"
    for variable in dataset.variables.values():
        variable.encoding = {}
        fill = variable.attrs.pop("_FillValue", None)  # xarray takes it from the encoding alone
        variable.encoding["_FillValue"] = fill
    try:
        with storage_errors("write", target):
            dataset.to_netcdf(temporary, engine="netcdf4")
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except (ValueError, TypeError, RuntimeError) as error:
        raise StorageError(f"expected to write {target}, got: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
        dataset.close()
    return [str(name) for name in dataset.variables]
