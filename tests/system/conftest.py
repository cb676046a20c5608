"""What the system tests share: the built packages, a clean Debian 12, and one with the package installed.

Each is made once a run, in a temporary directory. ``MESHD_DEBIAN_TREE`` names a tree that
debootstrap made before, to use instead of a new one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.needs import require
from tests.system import machine
from tests.system.machine import Machine

PROJECT = Path(__file__).parents[2]
SUITE = "bookworm"
_FOR_TESTS = ("systemd-sysv", "dbus", "libpam-systemd")
"""Beside what the package depends on: to boot, and to run a user's service manager."""
_STRIP = {
    "amd64": ("x86_64-linux-gnu-strip", "binutils-x86-64-linux-gnu"),
    "arm64": ("aarch64-linux-gnu-strip", "binutils-aarch64-linux-gnu"),
}


def require_programs(packages: Mapping[str, str]) -> None:
    """Skip unless each program is installed. ``packages``: program -> the Debian package that it is in."""
    lacking = {name: package for name, package in packages.items() if shutil.which(name) is None}
    if lacking:
        require(f"not installed: {', '.join(lacking)} (sudo apt install {' '.join(sorted(set(lacking.values())))})")


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Where the run keeps packages and trees; gone after it."""
    with tempfile.TemporaryDirectory(prefix="meshd-system-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def uv() -> str:
    """The project's uv."""
    found = shutil.which("uv", path=f"{PROJECT / '.venv-bootstrap/bin'}{os.pathsep}{os.environ['PATH']}")
    require(None if found else "no uv (any make target installs it)")
    assert found is not None
    return found


Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build(directory: Path, uv: str) -> Build:
    """``build("amd64", revision=2)``: the path of a package, built unless this run did before.

    ``place``: another one holds another copy of the same sources.
    """
    built: dict[tuple[str, int, str], Path] = {}

    def make(architecture: str, revision: int = 1, place: str = "first") -> Path:
        strip, binutils = _STRIP[architecture]
        require_programs({"dpkg-deb": "dpkg", strip: binutils})
        key = (architecture, revision, place)
        if key not in built:
            source = directory / place
            if not source.exists():
                # From `first`: what is edited meanwhile must not make two packages of one run differ.
                copy_sources(directory / "first" if place != "first" else PROJECT, source)
            command = [sys.executable, str(source / "packaging/build_deb.py"), "--architecture", architecture]
            command += ["--revision", str(revision), "--output", str(source / "dist"), "--uv", uv]
            environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
            environment["SOURCE_DATE_EPOCH"] = "1800000000"
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            assert done.returncode == 0, done.stderr
            built[key] = Path(done.stdout.partition(" ")[0])
        return built[key]

    return make


def copy_sources(project: Path, target: Path) -> None:
    """What a package is built of, at another place, without its history."""
    target.mkdir()
    for name in ("meshd", "packaging", "systemd", "docs"):
        shutil.copytree(project / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "uv.lock", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(project / name, target)


@pytest.fixture(scope="session")
def package(build: Build) -> Path:
    """The package for the machines."""
    return build("amd64")


@pytest.fixture(scope="session")
def tree(directory: Path, package: Path) -> Path:
    """A clean Debian 12: the smallest there is, with what the package says it depends on."""
    require(machine.missing())
    if os.environ.get("MESHD_DEBIAN_TREE"):
        return Path(os.environ["MESHD_DEBIAN_TREE"])
    require_programs({"debootstrap": "debootstrap", "apt-get": "apt"})
    place = directory / "tree"
    names = ",".join([*_dependencies(package), *_FOR_TESTS])
    command = ["debootstrap", "--variant=minbase", "--arch=amd64", f"--include={names}", SUITE, str(place), _mirror()]
    # Its own control: each mount that it makes in the tree goes with this namespace.
    isolated = ["unshare", "--mount", "--propagation", "private", *command]
    done = subprocess.run(isolated, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    shutil.rmtree(place / "var/cache/apt")
    return place


def _dependencies(package: Path) -> list[str]:
    """The names of what the package depends on; of alternatives the first."""
    shown = subprocess.run(["dpkg-deb", "--field", package, "Depends"], capture_output=True, text=True, check=True)
    return sorted({entry.split("|")[0].split()[0] for entry in shown.stdout.split(",")})


def _mirror() -> str:
    """Where this machine's apt gets Debian from."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [row.split()[1] for row in shown.splitlines() if row.startswith(f"{SUITE} ")]
    require(None if found else f"apt is not configured for Debian {SUITE}, so no mirror is known")
    return found[0]


@pytest.fixture(scope="session")
def installed(directory: Path, tree: Path, package: Path) -> Path:
    """That Debian with the package installed, as on a card prepared on another machine: it was never booted."""
    place = directory / "installed"
    subprocess.run(["cp", "--archive", tree, place], check=True)
    shutil.copy(package, place / "tmp")
    command = ["chroot", str(place), "dpkg", "--install", f"/tmp/{package.name}"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (place / "tmp" / package.name).unlink()
    return place


@pytest.fixture(scope="module")
def device(installed: Path) -> Iterator[Machine]:
    """A booted machine with meshd on it, for tests that leave it as they found it."""
    with Machine(installed, "alpha") as alpha:
        yield alpha
