"""A ZIP archive of images, read in place: an index of offsets, then each member alone, from any thread.

Nothing is unpacked to the disk. What a member claims of itself is not believed: no more than it says, and never more
than `MAX_BYTES`, is unpacked, and its checksum must be right. Members that are encrypted, packed in another way than
`stored` or `deflate`, or named so that they would lie outside the archive's folder, are bad images.
"""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from undye.data.colour import BadImageError
from undye.data.index import FilesStamp, Kept
from undye.data.members import MAX_BYTES, Members, image_members, leads_out
from undye.data.name_list import NameList
from undye.data.report import show_path
from undye.errors import UserError

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _OUTSIDE = -1, -2  # in place of the method
_LOCAL = struct.Struct("<4s22xHH")  # the header before a member's bytes, down to the lengths of its name and extras


class ZipMembers(Members):
    """The images in a ZIP archive.

    `where` is one row per image: offset of its local header, packed size, unpacked size, CRC-32, method.
    """

    def __init__(self, path: Path, names: NameList, where: Int64[np.ndarray, "n 5"], stamp: FilesStamp) -> None:
        self.name, self.names, self.stamp = show_path(path), names, stamp
        self._path, self._where = path, where

    @classmethod
    def scan(cls, path: Path, split: str, stamp: FilesStamp) -> "ZipMembers":
        """Reads the archive's table of contents.

        Raises:
            UserError: it cannot be read, or names no image that can be used.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
        # zipfile lets out all kinds of errors on a damaged table of contents
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, struct.error) as error:
            raise UserError(f"cannot read {show_path(path)} as a ZIP archive: {' '.join(str(error).split())}") from None
        chosen, names = image_members([info.filename.replace("\\", "/") for info in infos], split)
        if not chosen:
            raise UserError(f"no images in {show_path(path)}")
        where = np.array(
            [(i.header_offset, i.compress_size, i.file_size, i.CRC, _method(i)) for i in (infos[k] for k in chosen)],
            dtype=np.int64,
        )
        if (where[:, 4] == _ENCRYPTED).all():
            raise UserError(f"{show_path(path)} is encrypted: unpack it, and give the folder")
        return cls(path, NameList.of(names), where, stamp)

    @classmethod
    def kept(cls, path: Path, kept: Kept, stamp: FilesStamp) -> "ZipMembers":
        """From an index."""
        return cls(path, NameList(kept.tensors["names"], kept.tensors["name_ends"]), kept.tensors["where"], stamp)

    def read(self, index: int) -> bytes:
        """The unpacked bytes of one image.

        Raises:
            BadImageError: see above.
        """
        offset, packed, unpacked, crc, method = self._where[index].tolist()
        if method == _ENCRYPTED:
            raise BadImageError("encrypted")
        if method == _OUTSIDE:
            raise BadImageError("its name leads out of the archive")
        if method not in (_STORED, _DEFLATED):
            raise BadImageError(f"packed with method {method}: only stored and deflate are read")
        if not (0 < unpacked <= MAX_BYTES and packed <= MAX_BYTES):
            raise BadImageError("empty" if unpacked == 0 else f"claims {unpacked:,} bytes: a decompression bomb?")
        with self._path.open("rb") as file:
            file.seek(offset)
            header = file.read(_LOCAL.size)
            if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
                raise BadImageError("the archive is damaged or has changed: no member at its place")
            _, name_length, extra_length = _LOCAL.unpack(header)
            file.seek(name_length + extra_length, 1)
            data = file.read(packed)
        if len(data) != packed:
            raise BadImageError("the archive is cut short")
        if method == _DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, unpacked + 1)
            except zlib.error as error:
                raise BadImageError(f"damaged: {error}") from None
        if len(data) != unpacked or zlib.crc32(data) != crc:
            raise BadImageError("damaged: not the bytes that the archive lists")
        return data

    def tensors(self) -> dict[str, np.ndarray]:
        """Names and places."""
        assert isinstance(self.names, NameList)
        return {"names": self.names.text, "name_ends": self.names.ends, "where": self._where}


def _method(info: zipfile.ZipInfo) -> int:
    if info.flag_bits & 1:
        return _ENCRYPTED
    return _OUTSIDE if leads_out(info.filename) else info.compress_type
