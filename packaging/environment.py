"""The private environment of the package: wheels of the lock file, each checked against its hash, and made small.

Nothing of it comes from, or points to, the machine that builds: wheels are unpacked for the target's
architecture, whatever that machine is, and the interpreter is the target's own ``/usr/bin/python3``.
"""

import os
import shutil
import subprocess
from pathlib import Path

import attrs

PYTHON = "3.11"
"""Debian 12's. Compiled wheels are for one version, so the package depends on exactly this one."""

HOME = Path("usr/lib/meshd")
SITE_PACKAGES = HOME / "lib" / f"python{PYTHON}" / "site-packages"

_PYVENV = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n"

_NOT_NEEDED_DIRS = ("tests", "_tests", "__pycache__", "sqlite_extra_binaries")
"""Tests of the libraries; programs and extensions that apsw ships beside the SQLite that it holds."""

_NOT_NEEDED_FILES = (
    *("*.pyi", "*.pxd", "*.c", "*.h", "py.typed"),  # for compilers and type checkers
    *("zstandard/_cffi.*", "zstandard/backend_cffi.py"),  # its second backend, for PyPy
    "segno/cli.py",
)

_INSTALLER_NOTES = ("RECORD", "REQUESTED", "INSTALLER", "WHEEL", "direct_url.json", "uv_cache.json")
"""Written by the installer; they may name paths of this machine, and list files that are not kept."""


@attrs.frozen
class Architecture:
    """A target: Debian's name, the platform its wheels are for, and the program that strips its libraries."""

    name: str
    platform: str
    strip: str
    elf_machine: int


ARCHITECTURES = {
    target.name: target
    for target in (
        Architecture("amd64", "x86_64-manylinux_2_28", "x86_64-linux-gnu-strip", 62),
        Architecture("arm64", "aarch64-manylinux_2_28", "aarch64-linux-gnu-strip", 183),
    )
}


def build_environment(project: Path, root: Path, uv: str, architecture: Architecture) -> None:
    """Fill ``root``/usr/lib/meshd. Raises CalledProcessError, with the reason on standard error."""
    site = root / SITE_PACKAGES
    site.mkdir(parents=True)
    _unpack_wheels(project, site, uv, architecture)
    shutil.copytree(project / "meshd", site / "meshd")
    prune(site)
    libraries = sorted(site.rglob("*.so"))
    subprocess.run([architecture.strip, "--strip-unneeded", *libraries], check=True)
    for path in libraries:
        path.chmod(0o644)
    (root / HOME / "pyvenv.cfg").write_text(_PYVENV)
    programs = root / HOME / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(f"../../../bin/python{PYTHON}")


def _unpack_wheels(project: Path, site: Path, uv: str, architecture: Architecture) -> None:
    export = [uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate"]
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    locked = subprocess.run(export, cwd=project, env=environment, check=True, stdout=subprocess.PIPE).stdout
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    target = ["--target", str(site), "--python-version", PYTHON, "--python-platform", architecture.platform]
    # Copies, not links: stripping must not reach into uv's cache.
    command = [*install, *target, "--link-mode", "copy", "--requirements", "-"]
    subprocess.run(command, cwd=project, env=environment, check=True, input=locked)


def prune(site: Path) -> None:
    """Remove what a running daemon never opens. Licences and metadata stay."""
    for name in ("bin", "share"):  # programs of the libraries; their manual pages
        shutil.rmtree(site / name, ignore_errors=True)
    for name in _NOT_NEEDED_DIRS:
        for directory in list(site.rglob(name)):
            shutil.rmtree(directory)
    for pattern in _NOT_NEEDED_FILES:
        for file in list(site.rglob(pattern)):
            file.unlink()
    (site / ".lock").unlink(missing_ok=True)
    for module in site.rglob("*.py"):  # it is imported, not run: what would run it is not to be looked for
        first, end, rest = module.read_bytes().partition(b"\n")
        if first.startswith(b"#!"):
            module.write_bytes(b"#" + end + rest)


def drop_installer_notes(site: Path) -> None:
    """Remove what only the installer needs to know, RECORD included: call this last."""
    for name in _INSTALLER_NOTES:
        for file in list(site.glob(f"*.dist-info/{name}")):
            file.unlink()
