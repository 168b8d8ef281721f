"""The recipes of contrib/recipes, and a machine on which a test does what they say.

A recipe names its files in full: /srv/rbd, /etc/fstab.  So it is run as it stands, where these are
nobody else's: in a mount and a process namespace of its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.images import open_image
from tests.support.mounts import RBDFS
from tests.support.namespaces import WITHOUT_MOUNTS_OF_OTHERS, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph

RECIPES = Path(__file__).resolve().parents[2] / "contrib" / "recipes"
POOL = "vms"
MOUNTPOINT = Path("/srv/rbd")
TIMEOUT_S = 90.0
_USER = pwd.getpwnam("nobody")

# PID 1 reaps what loses its parent, and ends all with itself.
_MACHINE = f"""
{WITHOUT_MOUNTS_OF_OTHERS}
set -e
mount -t tmpfs -o mode=755 none /run
sleep infinity &
echo ready
wait
"""
_UNSHARE = ("unshare", "--mount", "--propagation=private", "--pid", "--mount-proc", "--fork")

# What recipes write to is empty, but for what others have in /srv, which may be the checkout.
# /dev/fuse is everybody's, as udev makes it.
_SETUP = """
set -e
files=$1 rbdfs=$2
mkdir "$files/srv" "$files/dev"
mount --rbind /srv "$files/srv"
for directory in /etc/ceph /etc/cron.d /etc/prometheus /etc/systemd/system /usr/local/bin \
        /var/lib/prometheus /srv "$files/dev"; do
    mkdir -p "$directory"
    mount -t tmpfs -o mode=755 none "$directory"
done
for entry in "$files"/srv/*/; do
    [ -d "$entry" ] || continue
    mkdir -p "/srv/$(basename "$entry")"
    mount --rbind "$entry" "/srv/$(basename "$entry")"
done
mkdir -p /srv/rbd /var/lib/prometheus/node-exporter
install -d -m 700 /srv/home /srv/home/root
chmod 755 /srv/home
install -d -m 700 -o nobody /srv/home/nobody /run/nobody
cp -a "$files"/ceph/. /etc/ceph
ln -s "$rbdfs" /usr/local/bin/rbdfs
if [ -e /etc/fstab ]; then
    mount --bind "$files/fstab" /etc/fstab
fi
mknod -m 666 "$files/dev/fuse" c $(stat -c '%Hr %Lr' /dev/fuse)
mount --bind "$files/dev/fuse" /dev/fuse
"""


def recipes() -> list[str]:
    """Their names, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.md") if path.name != "README.md")


def sections(recipe: str) -> dict[str, str]:
    """The shell blocks of a recipe, by the heading that they are under."""
    text = (RECIPES / f"{recipe}.md").read_text()
    _, *parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    scripts = {
        heading: "".join(re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL))
        for heading, part in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: script for heading, script in scripts.items() if script}


def need(*programs: str) -> None:
    """Skip the test where a program is not installed, which a recipe says where to get."""
    for program in programs:
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            pytest.skip(f"{program} is not installed")


class RecipeError(Exception):
    """A command of a recipe failed; the message has what it printed."""


@dataclass(frozen=True)
class Machine(Namespace):
    """The namespaces of process `holder` and its children, with what an administrator has.

    There are rbdfs in /usr/local/bin, the cluster in /etc/ceph, and pool `vms`.
    """

    @property
    def prefix(self) -> list[str]:
        return [*super().prefix, f"--pid=/proc/{self.holder}/ns/pid_for_children"]

    def follow(self, recipe: str, heading: str, *, as_user: bool = False) -> str:
        """Do what a recipe says under a heading; return what that printed.

        As root, or `as_user` as nobody. RecipeError where a command fails.
        """
        return self.shell(sections(recipe)[heading], as_user=as_user)

    def shell(self, script: str, *, as_user: bool = False) -> str:
        """What a shell script prints, which ends with the first command that fails."""
        user = ("setpriv", f"--reuid={_USER.pw_uid}", f"--regid={_USER.pw_gid}", "--clear-groups")
        home = f"/srv/home/{'nobody' if as_user else 'root'}"
        done = subprocess.run(
            [*self.prefix, *(user if as_user else ()), "bash", "-eux", "-o", "pipefail"],
            input=f"cd\n{script}",
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={
                "HOME": home,
                "XDG_RUNTIME_DIR": "/run/nobody" if as_user else "",
                "LC_ALL": "C.UTF-8",
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            },
        )
        if done.returncode:
            raise RecipeError(f"exit code {done.returncode}\n{done.stderr}\n{done.stdout}")
        return done.stdout

    def file(self, name: str) -> Path:
        """A file below /srv/rbd, seen from outside."""
        return self.path(MOUNTPOINT / name)


@contextlib.contextmanager
def machine(ceph: Ceph, files: Path) -> Iterator[Machine]:
    """A machine, which keeps its files in an empty directory."""
    with subprocess.Popen(
        [*_UNSHARE, "--kill-child", "sh", "-c", _MACHINE], stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            yield set_up(holder.pid, ceph, files)
        finally:
            holder.kill()


def set_up(holder: int, ceph: Ceph, files: Path) -> Machine:
    """Make the namespaces of a process, which nobody else is in, a machine for recipes."""
    configuration = files / "ceph"
    configuration.mkdir()
    settings = ceph.conf.read_text().splitlines()
    monitors = next(line for line in settings if line.startswith("mon host"))
    (configuration / "ceph.conf").write_text(f"[global]\n{monitors}\n")
    for user, mode in (("admin", 0o600), ("ro", 0o644)):
        keyring = configuration / f"ceph.client.{user}.keyring"
        keyring.write_text(ceph.keyring(user).read_text())
        keyring.chmod(mode)
    (files / "fstab").touch()
    made = Machine(holder)
    done = made.run("sh", "-c", _SETUP, "sh", files, RBDFS)
    assert done.returncode == 0, done.stderr
    return made


def write(ceph: Ceph, name: str, data: bytes, offset: int) -> None:
    """What the machine whose disk this is does at day."""
    with open_image(ceph, POOL, name) as image:
        image.write(data, offset)
