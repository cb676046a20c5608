"""The Debian package: what is in it, and its life on two machines: installed, used, upgraded, purged."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netlab.lab import eventually
from tests.system.conftest import PROJECT, Build, require_programs
from tests.system.machine import Failed, Machine, pair

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ARCHITECTURES = {"amd64": 62, "arm64": 183}
"""Debian's name -> the machine number in an ELF header (elf(5))."""

MOST_BYTES = 10_000_000


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest, build: Build) -> Path:
    return build(request.param)


@pytest.fixture(scope="module")
def unpacked(built: Path, directory: Path) -> Path:
    place = directory / f"unpacked-{built.stem}"
    subprocess.run(["dpkg-deb", "--raw-extract", built, place], check=True)
    return place


def test_lintian_has_nothing_to_say(built: Path) -> None:
    require_programs({"lintian": "lintian"})
    command = ["lintian", "--allow-root", "--tag-display-limit", "0", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_it_is_small(built: Path) -> None:
    assert built.stat().st_size < MOST_BYTES


def test_nothing_in_it_knows_where_it_was_built(unpacked: Path, directory: Path) -> None:
    for path in unpacked.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            for place in (PROJECT / ".venv", directory, tempfile.gettempdir() + "/meshd-deb-"):
                assert str(place).encode() not in data, path
    assert not list(unpacked.rglob("__pycache__"))
    assert os.readlink(unpacked / "usr/lib/meshd/bin/python3") == "../../../bin/python3.11"


def test_every_page_is_there(unpacked: Path) -> None:
    pages = {page.name for page in (PROJECT / "docs").glob("*.md")}
    assert {page.name for page in (unpacked / "usr/share/doc/meshd/docs").iterdir()} == pages
    assert (unpacked / "usr/share/doc/meshd/README.md").read_text() == (PROJECT / "README.md").read_text()


def test_every_library_is_for_the_architecture(built: Path, unpacked: Path) -> None:
    machine = ARCHITECTURES[built.stem.rpartition("_")[2]]
    libraries = list(unpacked.rglob("*.so"))
    assert len(libraries) > 10
    for path in libraries:
        header = path.read_bytes()[:20]
        assert (header[:4], header[18]) == (b"\x7fELF", machine), path


def test_both_architectures_hold_the_same(build: Build, directory: Path) -> None:
    def listed(architecture: str) -> set[str]:
        command = ["dpkg-deb", "--fsys-tarfile", str(build(architecture))]
        tar = subprocess.run(command, capture_output=True, check=True).stdout
        names = subprocess.run(["tar", "--list"], input=tar, capture_output=True, check=True).stdout.decode()
        return {re.sub(r"\.cpython-311-\w+-linux-gnu\.so$", ".so", name) for name in names.splitlines()}

    assert listed("amd64") == listed("arm64")


def test_every_locked_library_is_there(unpacked: Path, uv: str) -> None:
    command = [uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--no-header"]
    locked = subprocess.run([*command, "--no-annotate"], cwd=PROJECT, capture_output=True, text=True, check=True)
    expected = {tuple(row.split(" ")[0].lower().replace("_", "-").split("==")) for row in locked.stdout.splitlines()}
    found = set()
    for directory in unpacked.rglob("*.dist-info"):
        name, _, version = directory.name.removesuffix(".dist-info").rpartition("-")
        found.add((name.lower().replace("_", "-"), version))
        assert "\nLicense: " in (unpacked / "usr/share/doc/meshd/copyright").read_text()
    assert found == expected


def test_the_same_commit_gives_the_same_bytes(build: Build) -> None:
    assert build("amd64").read_bytes() == build("amd64", place="second").read_bytes()


def test_a_library_that_is_not_what_was_locked_is_refused(uv: str, tmp_path: Path) -> None:
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    lock = (PROJECT / "uv.lock").read_text()
    begin = lock.index('name = "outcome"')
    section = lock[begin : lock.index("[[package]]", begin)]
    forged = re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", section)
    assert forged != section
    (tmp_path / "uv.lock").write_text(lock.replace(section, forged))
    script = (
        "import sys; from pathlib import Path\n"
        "from environment import ARCHITECTURES, build_environment\n"
        "build_environment(Path(sys.argv[1]), Path(sys.argv[1]) / 'root', sys.argv[2], ARCHITECTURES['amd64'])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "packaging"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", script, str(tmp_path), uv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Hash mismatch for `outcome" in done.stderr


def test_the_manual_pages_are_well_formed(unpacked: Path) -> None:
    require_programs({"man": "man-db"})
    pages = sorted((unpacked / "usr/share/man").rglob("*.gz"))
    assert [page.name for page in pages] == ["meshctl.1.gz", "meshd.toml.5.gz", "meshd-relay.8.gz", "meshd.8.gz"]
    for page in pages:
        command = ["man", "--warnings", "--local-file", str(page)]
        environment = os.environ | {"MANWIDTH": "100", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""


# --- on machines


@pytest.fixture
def machines(tree: Path, package: Path) -> Iterator[tuple[Machine, Machine]]:
    with Machine(tree, "alpha") as alpha, Machine(tree, "beta") as beta:
        alpha.plug(beta, "10.79.0.1/24", "10.79.0.2/24")
        yield alpha, beta


def install(machine: Machine, package: Path) -> None:
    """As ``apt install ./FILE`` does once it has what the package depends on."""
    shutil.copy(package, machine.path("/root"))
    machine.run("dpkg", "--install", f"/root/{package.name}")
    machine.run("rm", f"/root/{package.name}")


def files(machine: Machine) -> set[str]:
    """Every path on the machine's disk."""
    skipped = ("/proc", "/sys", "/dev", "/run", "/tmp")
    pruned = [word for place in skipped for word in ("-path", place, "-prune", "-o")]
    return set(machine.run("find", "/", *pruned, "-print").splitlines())


def accounts(machine: Machine) -> tuple[str, str]:
    return machine.run("getent", "passwd"), machine.run("getent", "group")


def peer_state(machine: Machine) -> str:
    peers = json.loads(machine.run("meshctl", "--json", "peers"))
    return str(peers[0]["state"]) if peers else ""


def receive(machine: Machine) -> str:
    command = ["meshctl", "--json", "--timeout", "30", "receive", "--count", "1"]
    return str(json.loads(machine.run(*command))["payload"])


def test_install_pair_send_upgrade_purge(machines: tuple[Machine, Machine], package: Path, build: Build) -> None:
    alpha, beta = machines
    files_before, accounts_before = files(beta), accounts(beta)
    for machine in machines:
        install(machine, package)
        assert machine.property("meshd", "ActiveState") == "active"
        assert machine.run("meshd", "--version") == machine.run("meshctl", "--version").replace("meshctl", "meshd")
    alpha.run("meshctl", "init", "home")
    pair(alpha, beta)
    for machine in machines:
        eventually(lambda machine=machine: peer_state(machine) == "up", within_s=30, what="linked")  # type: ignore[misc]
    alpha.run("meshctl", "send", "--wait", "delivered", "beta", "before")
    assert receive(beta) == "before"

    beta.run("tee", "--append", "/etc/meshd/meshd.toml", stdin='[store]\nquota = "64MiB"\n')
    alpha.run("meshctl", "send", "--wait", "delivered", "beta", "waiting")
    before = json.loads(beta.run("meshctl", "--json", "status"))
    install(beta, build("amd64", revision=2))
    after = json.loads(beta.run("meshctl", "--json", "status"))
    assert (after["device"], after["mesh"]) == (before["device"], before["mesh"])
    assert after["uptime_s"] < before["uptime_s"]
    assert after["spool"]["quota_bytes"] == 64 * 1024 * 1024
    assert receive(beta) == "waiting"
    beta.run("meshctl", "--timeout", "60", "send", "--wait", "delivered", "alpha", "after")
    assert receive(alpha) == "after"

    beta.run("dpkg", "--remove", "meshd")
    assert beta.property("meshd", "ActiveState") == "inactive"
    assert beta.path("/var/lib/meshd/identity.key").exists()
    assert "64MiB" in beta.path("/etc/meshd/meshd.toml").read_text()
    assert not beta.path("/usr/lib/meshd").exists()
    install(beta, package)
    assert json.loads(beta.run("meshctl", "--json", "status"))["mesh"] == before["mesh"]

    beta.run("dpkg", "--purge", "meshd")
    assert files(beta) - files_before - _of_dpkg() == set()
    assert accounts(beta) == accounts_before
    with pytest.raises(Failed):
        beta.run("systemctl", "cat", "meshd")


def _of_dpkg() -> set[str]:
    """What dpkg, the account programs and the service manager keep about their own work, in any case."""
    backups = {f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow")}
    return backups | {"/var/lib/dpkg/status-old", "/var/lib/dpkg/triggers/Lock", "/etc/.pwd.lock"}


def test_a_service_that_was_disabled_stays_so(tree: Path, package: Path, build: Build) -> None:
    with Machine(tree, "alpha") as alpha:
        install(alpha, package)
        alpha.run("systemctl", "disable", "--now", "meshd")
        install(alpha, build("amd64", revision=2))
        assert alpha.property("meshd", "ActiveState") == "inactive"
        assert alpha.property("meshd", "UnitFileState") == "disabled"


def test_the_shells_complete(tree: Path, package: Path) -> None:
    with Machine(tree, "alpha") as alpha:
        install(alpha, package)
        words = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "_${1}$kind" "$1"; printf "%s\\n" "${COMPREPLY[@]}"'
        for line, kind, expected in (
            (("meshd", "--log-level", "d"), "", "debug\n"),
            (("meshd", "--check"), "", "--check-config\n"),
            (("meshctl", "memb"), "_completion", "members\n"),
        ):
            source = f". /usr/share/bash-completion/completions/{line[0]}; kind={kind}; {words}"
            assert alpha.run("bash", "-c", source, "bash", *line) == expected
