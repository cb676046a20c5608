"""Build the Debian package: ``make deb``, or ``make deb DEB_ARCH=arm64``.

It takes this project's files and its lock file, uv, binutils and dpkg-deb; the result is the same
for the same commit, except for what another version of dpkg-deb compresses differently.
"""

import argparse
import csv
import email
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from email.message import Message
from pathlib import Path

from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from environment import ARCHITECTURES, SITE_PACKAGES, Architecture, build_environment, drop_installer_notes
from manual import configuration_page, meshctl_page

from meshd import __version__
from meshd.cli.app import meshctl

PROJECT = Path(__file__).parents[1]
PACKAGING = Path(__file__).parent
MAIL = "meshd@packages.invalid"
"""A package must name an address; a build that is published passes its own."""

DOCUMENTS = Path("usr/share/doc/meshd")

_PROGRAM = """\
#!/usr/lib/meshd/bin/python3 -I
from {module} import main

main()
"""
_COMPLETIONS = {
    "bash": ("usr/share/bash-completion/completions/{}", BashComplete),
    "zsh": ("usr/share/zsh/vendor-completions/_{}", ZshComplete),
    "fish": ("usr/share/fish/vendor_completions.d/{}.fish", FishComplete),
}
"""shell -> where its completions are looked for, and what writes that of meshctl."""


def main(arguments: Sequence[str]) -> int:
    """Build one package; print where it is."""
    parser = argparse.ArgumentParser(prog="build_deb.py", description=__doc__)
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="amd64")
    parser.add_argument("--output", type=Path, default=PROJECT / "dist", metavar="DIR")
    parser.add_argument("--revision", type=int, default=1, help="of the packaging of this version")
    parser.add_argument("--mail", default=MAIL, help="where the maintainer is reached")
    parser.add_argument("--uv", default="uv", help="the uv to use")
    given = parser.parse_args(arguments)
    architecture = ARCHITECTURES[given.architecture]
    uv = shutil.which(given.uv)
    if uv is None:
        sys.stderr.write(f"There is no program {given.uv}: say where uv is by --uv.\n")
        return 1
    lacking = [name for name in ("dpkg-deb", architecture.strip) if shutil.which(name) is None]
    if lacking:
        needed = f"dpkg binutils-{architecture.strip.removesuffix('-strip')}"
        sys.stderr.write(f"Not installed: {', '.join(lacking)}. On Debian: sudo apt install {needed}\n")
        return 1
    version = f"{__version__}-{given.revision}"
    moment = _moment()
    with tempfile.TemporaryDirectory(prefix="meshd-deb-") as name:
        root = Path(name) / "root"
        root.mkdir()
        build_environment(PROJECT, root, os.path.abspath(uv), architecture)
        add_files(root, version, moment, given.mail)
        drop_installer_notes(root / SITE_PACKAGES)
        add_control(root, version, architecture, given.mail)
        package = pack(root, given.output, f"meshd_{version}_{architecture.name}.deb", moment)
    sys.stdout.write(f"{package} ({package.stat().st_size / 1e6:.1f} MB)\n")
    return 0


def _moment() -> int:
    """Seconds since 1970 of the commit that is packed: every date in the package is this one."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    shown = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=PROJECT, capture_output=True, check=False)
    return int(shown.stdout) if shown.returncode == 0 else int(time.time())


# --- files


def add_files(root: Path, version: str, moment: int, mail: str) -> None:
    """Everything beside the environment."""
    date = time.strftime("%Y-%m-%d", time.gmtime(moment))
    for name, module in (("meshd", "meshd.__main__"), ("meshctl", "meshd.cli"), ("meshd-relay", "meshd.relay")):
        _write(root / "usr/bin" / name, _PROGRAM.format(module=module), mode=0o755)
    for name in ("meshd.toml", "relay.toml"):
        _copy(PACKAGING / name, root / "etc/meshd" / name)
    for name in ("meshd.service", "meshd-relay.service"):
        _copy(PROJECT / "systemd" / name, root / "usr/lib/systemd/system" / name)
    _copy(PROJECT / "systemd/user/meshd.service", root / "usr/lib/systemd/user/meshd.service")
    _copy(PROJECT / "systemd/meshd.sysusers", root / "usr/lib/sysusers.d/meshd.conf")
    _copy(PACKAGING / "debian/lintian-overrides", root / "usr/share/lintian/overrides/meshd")
    add_completions(root)
    pages = {
        **{
            f"man8/{name}": (PACKAGING / name).read_text().replace("@DATE@", date).replace("@VERSION@", __version__)
            for name in ("meshd.8", "meshd-relay.8")
        },
        "man1/meshctl.1": meshctl_page(__version__, date),
        "man5/meshd.toml.5": configuration_page((PROJECT / "docs/configuration.md").read_text(), __version__, date),
    }
    for name, text in pages.items():
        _write_compressed(root / "usr/share/man" / f"{name}.gz", text)
    for name in ("dashboard.json", "alerts.yml"):
        _copy(PACKAGING / "monitoring" / name, root / DOCUMENTS / "monitoring" / name)
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))):
        _copy(page, root / DOCUMENTS / page.relative_to(PROJECT))  # what meshctl names as docs/... is there
    _write(root / DOCUMENTS / "copyright", "".join(copyright_notice(root / SITE_PACKAGES)))
    _write_compressed(root / DOCUMENTS / "changelog.gz", (PROJECT / "CHANGELOG.md").read_text())
    _write_compressed(root / DOCUMENTS / "changelog.Debian.gz", debian_changelog(version, moment, mail))


def add_completions(root: Path) -> None:
    """For bash, zsh and fish: of meshd as written, of meshctl as its commands declare them."""
    for shell, (place, complete) in _COMPLETIONS.items():
        _copy(PACKAGING / f"completions/meshd.{shell}", root / place.format("meshd"))
        _write(root / place.format("meshctl"), _meshctl_completion(complete))


def _meshctl_completion(complete: type[ShellComplete]) -> str:
    values = {"complete_func": "_meshctl_completion", "complete_var": "_MESHCTL_COMPLETE", "prog_name": "meshctl"}
    # Not source(): for bash it first asks the bash of this machine for its version.
    assert meshctl.name == values["prog_name"]
    return complete.source_template.lstrip() % values


def debian_changelog(version: str, moment: int, mail: str) -> str:
    """One entry: what changed is in changelog.gz."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(moment))
    news = f"  * Version {__version__}: see changelog.gz."
    return f"meshd ({version}) unstable; urgency=medium\n\n{news}\n\n -- meshd developers <{mail}>  {date}\n"


def copyright_notice(site: Path) -> Iterator[str]:
    """In the machine-readable form of Debian: meshd, and each library of the environment by its own metadata."""
    yield (PACKAGING / "debian/copyright").read_text()
    for directory in sorted(site.glob("*.dist-info")):
        metadata = email.message_from_string((directory / "METADATA").read_text())
        texts = sorted(path.relative_to(site) for path in directory.rglob("*") if _is_licence(path))
        yield "\nFiles:\n" + "".join(f" /{SITE_PACKAGES}/{name}\n" for name in _installed(site, directory))
        yield f"Copyright: {_holder(metadata)}\n"
        yield f"License: {_licence(metadata)}\n"
        yield f" {metadata['Name']} {metadata['Version']}. The licence in full:\n"
        yield "".join(f" /{SITE_PACKAGES}/{path}\n" for path in texts) or " see METADATA beside its files\n"


def _installed(site: Path, directory: Path) -> list[str]:
    """The files and directories directly below ``site`` that a library brought."""
    rows = csv.reader((directory / "RECORD").read_text().splitlines())
    names = {Path(row[0]).parts[0] for row in rows}
    return [f"{name}/*" if (site / name).is_dir() else name for name in sorted(names) if (site / name).exists()]


def _is_licence(path: Path) -> bool:
    name = path.name.upper()
    return path.is_file() and name.startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT"))


def _holder(metadata: Message) -> str:
    named = metadata["Author"] or metadata["Author-email"] or metadata["Maintainer-email"]
    return " ".join(named.split()) if named else f"the authors of {metadata['Name']}"


def _licence(metadata: Message) -> str:
    named = metadata["License-Expression"] or metadata["License"]
    if not named or "\n" in named:
        classes = [value for value in metadata.get_all("Classifier", []) if value.startswith("License ::")]
        named = classes[0].rpartition(" :: ")[2] if classes else "as-given"
    return str(named)


# --- the package


def add_control(root: Path, version: str, architecture: Architecture, mail: str) -> None:
    """DEBIAN/: what dpkg reads, and the maintainer scripts."""
    kibibytes = sum(-(-path.lstat().st_size // 1024) for path in root.rglob("*") if not path.is_dir())
    values = {
        "@VERSION@": version,
        "@ARCHITECTURE@": architecture.name,
        "@MAIL@": mail,
        "@INSTALLED_SIZE@": str(kibibytes),
    }
    control = (PACKAGING / "debian/control").read_text()
    for key, value in values.items():
        control = control.replace(key, value)
    _write(root / "DEBIAN/control", control)
    _write(root / "DEBIAN/conffiles", "/etc/meshd/meshd.toml\n/etc/meshd/relay.toml\n")
    for name in ("postinst", "prerm", "postrm"):
        _copy(PACKAGING / "debian" / name, root / "DEBIAN" / name, mode=0o755)
    files = [path.relative_to(root) for path in _packed(root) if path.is_file() and not path.is_symlink()]
    sums = subprocess.run(["md5sum", "--", *files], cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    _write(root / "DEBIAN/md5sums", sums)


def _packed(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.relative_to(root).parts[0] != "DEBIAN":
            yield path


def pack(root: Path, output: Path, name: str, moment: int) -> Path:
    """Make the .deb of a finished tree; all in it belongs to root and is as old as the commit."""
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        os.utime(path, (moment, moment), follow_symlinks=False)
    output.mkdir(parents=True, exist_ok=True)
    package = output / name
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(package)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(moment)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return package


def _copy(source: Path, target: Path, mode: int = 0o644) -> None:
    _write(target, source.read_text(), mode)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _write_compressed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    path.chmod(0o644)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
