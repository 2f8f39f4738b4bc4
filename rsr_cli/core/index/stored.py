"""Vectors as a segment stores them: embeddings of int8 and float16 take a quarter or half of the bytes of float32.

The file of vectors is uint8 (n, bytes) of codes, or int8, float16 or float32 (n, dim) of embeddings. ``scales.npy`` is
float32 (n,): what the numbers of each row are multiplied by. int8 has it, and float16 that is compared by cosine: the
scale makes the length 1, and the numbers stay as they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.index.columns import ArrayFile, map_checked
from rsr_cli.core.records.scaled import quantized

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

SCALES = "scales.npy"
#: What is left of a float16 in the place of a float32, and what that is multiplied by: the exponents differ by 112.
HALF_BITS, HALF_SCALE = -0x70002000, 2.0**112


class Stored:
    """Embeddings of int8 or float16, which numpy takes for the numbers that they stand for.

    Parameters
    ----------
    values : numpy.ndarray
        int8 or float16 (n, dim); may be mapped.
    scales : numpy.ndarray, optional
        float32 (n,).
    """

    def __init__(self, values: NDArray[Any], scales: NDArray[np.float32] | None = None) -> None:
        self.values = values
        self.scales = scales

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        return len(self.values), self.values.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.nbytes

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Stored:
        return Stored(self.values[rows], None if self.scales is None else self.scales[rows])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the numbers (n, dim), as float64 unless another dtype is asked for; NaN of a scale below 0."""
        wide = self.values.astype(np.float64)
        if self.scales is not None:
            with np.errstate(invalid="ignore"):  # of an index with values that are not finite, which is refused
                wide *= np.where(self.scales >= 0, self.scales, np.nan)[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            return wide.astype(dtype or np.float64, copy=False)

    def unscaled(self, buffer: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values without their scales, float32 (n, dim), in a buffer of as many rows or more."""
        numbers = buffer[: len(self)]
        if self.values.dtype == np.float16:  # numpy takes these one by one, and five times as long
            bits = numbers.view(np.int32)
            bits[...] = self.values.view(np.int16)
            bits <<= 13
            bits &= HALF_BITS
            numbers *= np.float32(HALF_SCALE)
        else:
            numbers[...] = self.values
        return numbers

    def scaled(self, buffer: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the numbers, float32 (n, dim), likewise."""
        numbers = self.unscaled(buffer)
        if self.scales is not None:
            numbers *= self.scales[:, None]
        return numbers


if TYPE_CHECKING:
    #: Vectors as numpy has them, or embeddings in another type of number.
    Vectors = NDArray[Any] | Stored


def names_of(name: str, *, scaled: bool) -> tuple[str, ...]:
    """Return the files that vectors are stored in."""
    return (name, SCALES) if scaled else (name,)


def opened(directory: Path, name: str, dtype: str, shape: tuple[int, int], *, scaled: bool) -> Vectors:
    """Map vectors.

    Raises
    ------
    IndexFormatError
        A file is missing or damaged.
    """
    values = map_checked(directory / name, dtype, shape)
    if scaled:
        return Stored(values, map_checked(directory / SCALES, np.float32, shape[:1]))
    return Stored(values) if dtype == "float16" else values


class VectorWriter:
    """Writes the vectors of a segment.

    Parameters
    ----------
    directory : pathlib.Path
        The segment.
    name : str
        The file of vectors.
    dtype : str
        What to store them as: ``uint8``, ``int8``, ``float16`` or ``float32``.
    scaled : bool
        Whether there are scales.
    unit : bool
        The scales make the lengths 1.
    """

    def __init__(self, directory: Path, name: str, dtype: str, *, scaled: bool, unit: bool = False) -> None:
        self._paths = [directory / each for each in names_of(name, scaled=scaled)]
        self._dtype = dtype
        self._unit = unit
        self._files: list[ArrayFile] = []

    def append(self, vectors: NDArray[Any]) -> None:
        """Append vectors (n, width), embeddings as float32 that the dtype can hold."""
        scales = None
        if self._dtype == "int8":
            vectors, scales = quantized(vectors)
        values = vectors.astype(self._dtype, copy=False)
        if self._unit:
            lengths = np.linalg.norm(values.astype(np.float64), axis=1)
            scales = np.divide(1, lengths, out=np.zeros(len(values)), where=lengths > 0).astype(np.float32)
        self.copy(values if scales is None else Stored(values, scales))

    def copy(self, rows: Vectors) -> None:
        """Append rows as they are stored."""
        arrays: list[Any] = [rows]
        if isinstance(rows, Stored):
            arrays = [rows.values, rows.scales]
        if not self._files:
            named = zip(self._paths, arrays, strict=False)
            self._files = [ArrayFile(path, each.dtype, each.shape[1:]) for path, each in named]
        for file, each in zip(self._files, arrays, strict=False):
            file.append(each)

    def close(self) -> None:
        """Finish the files."""
        for file in self._files:
            file.close()
