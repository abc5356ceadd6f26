"""
Builds the wheel of this directory with the standard library alone, so that `pip install ./tools/python` needs neither
a network nor setuptools (PEP 517, PEP 660). Name and version are those of pyproject.toml, which has them in plain lines.
"""
import base64
import hashlib
import os
import re
import tarfile
import zipfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _project(key):
    with open(os.path.join(HERE, "pyproject.toml"), encoding="utf-8") as f:
        found = re.search(rf'^{key} = "(.*)"$', f.read(), re.M)
    if not found:
        raise ValueError(f"pyproject.toml has no line {key} = \"...\"")
    return found.group(1)


NAME, VERSION = _project("name"), _project("version")
INFO = f"{NAME}-{VERSION}.dist-info"


def _sources():
    for top, dirs, files in os.walk(os.path.join(HERE, NAME)):
        dirs[:] = sorted(d for d in dirs if d != "__pycache__")
        for f in sorted(files):
            if f.endswith(".py") or f == "py.typed":
                yield os.path.relpath(os.path.join(top, f), HERE)


def _read(path):
    with open(os.path.join(HERE, path), "rb") as f:
        return f.read()


def _metadata():
    return (f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\nSummary: {_project('description')}\n"
            f"Requires-Python: {_project('requires-python')}\nDescription-Content-Type: text/markdown\n\n"
            ).encode() + _read("README.md")


def _wheel(directory, files):
    name = f"{NAME}-{VERSION}-py3-none-any.whl"
    files = dict(files)
    files[f"{INFO}/METADATA"] = _metadata()
    files[f"{INFO}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: txnfs\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = ""
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    files[f"{INFO}/RECORD"] = (record + f"{INFO}/RECORD,,\n").encode()
    with zipfile.ZipFile(os.path.join(directory, name), "w", zipfile.ZIP_DEFLATED) as z:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            z.writestr(entry, data)
    return name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return _wheel(wheel_directory, {p: _read(p) for p in _sources()})


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return _wheel(wheel_directory, {f"__editable__.{NAME}.pth": (HERE + "\n").encode()})


def build_sdist(sdist_directory, config_settings=None):
    name = f"{NAME}-{VERSION}"
    with tarfile.open(os.path.join(sdist_directory, name + ".tar.gz"), "w:gz", format=tarfile.PAX_FORMAT) as t:
        for path in ["pyproject.toml", "README.md", "_build/backend.py", *_sources()]:
            t.add(os.path.join(HERE, path), f"{name}/{path}")
    return name + ".tar.gz"


def get_requires_for_build_wheel(config_settings=None):
    return []


get_requires_for_build_editable = get_requires_for_build_sdist = get_requires_for_build_wheel
