"""Jobs in script mode: a user's own code, packed as the SageMaker SDK packs it."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.train.trees import make_tree

Files = Mapping[str, str | bytes]


def pack(files: Files, **links: str) -> bytes:
    """Return a sourcedir.tar.gz with these files, and with symbolic links to these targets."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            data = content.encode() if isinstance(content, str) else content
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def script_job(root: Path, files: Files, program: str = "train.py", **more: Any) -> Path:
    """Write a job as SDK 2 sends it under network isolation: the code is a channel's archive."""
    archive = root / "input/data/code/sourcedir.tar.gz"
    given = {"sagemaker_program": program, "sagemaker_submit_directory": str(archive), **more}
    return make_tree(
        root,
        {"code": {archive.name: pack(files)}},
        {name: json.dumps(value) for name, value in given.items()},
    )


def wheel(name: str, content: str, version: str = "1.0") -> tuple[str, bytes]:
    """Return the file name and the bytes of a wheel with a module of this content."""
    about = f"{name}-{version}.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}.py", content)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{about}/METADATA", metadata)
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n")
    return f"{name}-{version}-py3-none-any.whl", buffer.getvalue()
